// Sliding windows in what pruning reads and leaves on the GPU, run by the simulator: attention sums against
// the ATen reference, positions against those that the host works out.
#include <gtest/gtest.h>

#include "engine/kernels/cuda/place_tokens.h"
#include "engine/model/window_slots.h"
#include "tests/kernels/cuda_observe_fixture.h"
#include "tests/kernels/window_cases.h"

namespace kvcrush {
namespace {

using cuda::ActivationType;
using testing::expect_close;
using testing::no_sums;
using testing::Observed;
using testing::random_positions;
using testing::sum_over;
using testing::sum_ring;
using testing::tolerance;

at::Tensor reference_sums(const Observed& o, const cpu::CachedLayer& cache, int num_after) {
  return reference::probability_sums_after(o.queries, o.stats.flatten(1), num_after, o.heads(), cache,
                                           o.paged.kv);
}

// Close, and exactly zero where no query sees a slot.
void expect_same_sums(const at::Tensor& actual, const at::Tensor& expected, KvDtype dtype) {
  expect_close(actual, expected, tolerance(dtype));
  EXPECT_TRUE(at::equal(actual.eq(0), expected.eq(0)));
}

class CudaWindowTest : public ::testing::TestWithParam<std::tuple<int, KvDtype>> {
 protected:
  static int tokens() { return std::get<0>(GetParam()); }
  static KvDtype dtype() { return std::get<1>(GetParam()); }
};

TEST_P(CudaWindowTest, SumsAreOfQueriesWhoseWindowASlotIsIn) {
  for (const HeadLayout& heads : {HeadLayout{4, 2, 64}, HeadLayout{2, 1, 128}}) {
    const Observed o(heads, dtype(), 400, 70, 50, {.tokens = tokens()});
    const at::Tensor sums = sum_ring(o, o.cache(), 0);
    expect_same_sums(sums, reference_sums(o, o.cache(), 0), dtype());

    // Calls that most blocks of slots have no part in, to the bit the same.
    at::Tensor in_parts = no_sums(o);
    int summed = 0;
    for (int first = 0; first < o.window(); first += 14) {
      sum_over(o, ActivationType::kF16, first, first + 14, summed, in_parts);
      summed = 400 - o.window() + first + 14;
    }
    EXPECT_TRUE(at::equal(in_parts.narrow(1, 0, 400), sums));
  }
}

// Each KV head's slots have positions of their own. In the end the observed queries' too, which were the
// newest when they were recorded.
TEST_P(CudaWindowTest, PrunedSlotsLeaveTheWindowByPosition) {
  const Observed o({9, 3, 64}, dtype(), 300, 37, 52, {.tokens = tokens()});
  for (const int num_placed : {250, 290}) {
    const std::vector<std::int32_t> positions = random_positions(3, num_placed, 450, 51);
    cpu::CachedLayer cache = o.cache();
    cache.window.num_evicted = 450;
    cache.window.num_placed = num_placed;
    cache.window.positions = positions.data();
    cache.window.positions_stride = num_placed;
    if (tokens() == 600) {
      ASSERT_NE(cpu::first_in_window(cache, 0, 300), cpu::first_in_window(cache, 1, 300));
    }
    expect_same_sums(sum_ring(o, cache, 0), reference_sums(o, cache, 0), dtype());
  }
}

// Lookahead: the last queries are of tokens behind the cached ones, and count as the next one's.
TEST_P(CudaWindowTest, QueriesBehindTheCacheSeeWhatTheNextOneSees) {
  const HeadLayout heads{6, 2, 64};
  const std::vector<std::int32_t> positions = random_positions(2, 200, 80, 53);
  const int num_after = 5;
  for (const int num_placed : {0, 200}) {
    const Observed o(heads, dtype(), 300, 20, 54,
                     {.tokens = tokens(),
                      .dropped_tiles = 0,
                      .num_evicted = 80,
                      .num_placed = num_placed,
                      .positions = positions.data(),
                      .positions_stride = 200});
    cpu::CachedLayer before = o.cache();
    before.num_cached -= num_after;
    before.num_packed = std::min(before.num_packed, before.num_cached);
    expect_same_sums(sum_ring(o, before, num_after), reference_sums(o, before, num_after), dtype());
  }
}

// Blocks of slots in a row, and packed ones with half a tile at their end.
INSTANTIATE_TEST_SUITE_P(Windows, CudaWindowTest,
                         ::testing::Combine(::testing::Values(1, 33, 200, 600, 5000),
                                            ::testing::Values(KvDtype::kF16, KvDtype::kInt4)),
                         testing::case_name);

// One layer that is pruned, once or twice, on the host and on the device.
struct Placed {
  BlockTable table;
  LayerPrunePlan plan;
  std::vector<std::int32_t> to;
};

constexpr int kKvHeads = 3;
constexpr int kRowStride = 130;

LayerPrunePlan random_plan(int num_before, int num_after, int num_sets, std::uint64_t seed) {
  LayerPrunePlan plan;
  plan.kept_slots = random_positions(num_sets, num_after, num_before - num_after, seed);
  plan.num_sets = num_sets;
  plan.num_tokens_before = num_before;
  plan.num_tokens_after = num_after;
  return plan;
}

TEST(CudaPlaceTest, PositionsAreThoseOfTheSlotsThatStay) {
  BlockPool pool(1000);
  std::vector<Placed> layers;
  for (const int num_placed : {0, 100, 180}) {
    for (const int num_sets : {1, kKvHeads}) {
      for (const int tokens : {0, 64, 5000}) {
        BlockTable table(pool, make_kv_format(KvDtype::kF16, 64), tokens);
        table.extend(180);
        auto positions = std::make_shared<BlockTable::SlotPositions>();
        positions->num_slots = num_placed;
        positions->of_heads = random_positions(kKvHeads, num_placed, 70, 60);
        if (tokens > 0) table.restore_window(70, 0, {}, num_placed == 0 ? nullptr : positions);
        layers.push_back({std::move(table), random_plan(180, 120, num_sets, 61 + layers.size()),
                          std::vector<std::int32_t>(kKvHeads * kRowStride, -7)});
      }
    }
  }
  std::vector<cuda::PlaceJob> jobs;
  for (Placed& layer : layers) {
    jobs.push_back({.from = layer.table.cached().window,
                    .kept_slots = layer.plan.kept_slots.data(),
                    .num_sets = layer.plan.num_sets,
                    .num_kept = layer.plan.num_tokens_after,
                    .to = layer.to.data(),
                    .to_stride = kRowStride});
  }
  cuda::place_tokens(jobs.data(), static_cast<int>(jobs.size()), kKvHeads, nullptr);
  for (const Placed& layer : layers) {
    std::vector<std::int32_t> expected(kKvHeads * kRowStride, -7);
    const BlockTable::Positions after = positions_after(layer.table, layer.plan, kKvHeads);
    ASSERT_EQ(after != nullptr, layer.table.window_tokens() > 0);
    for (int h = 0; h < kKvHeads && after != nullptr; ++h)
      std::copy_n(after->of_heads.begin() + h * after->num_slots, after->num_slots,
                  expected.begin() + h * kRowStride);
    EXPECT_EQ(layer.to, expected);
  }
}

// A second pruning reads what the first one wrote.
TEST(CudaPlaceTest, PositionsFollowTokensThroughPrunings) {
  const std::vector<std::int32_t> first = random_plan(200, 120, kKvHeads, 71).kept_slots;
  const std::vector<std::int32_t> second = random_plan(150, 90, 1, 72).kept_slots;  // 30 tokens came since
  std::vector<std::int32_t> placed(kKvHeads * kRowStride);
  std::vector<std::int32_t> again(kKvHeads * kRowStride);
  cuda::PlaceJob job{.from = {.tokens = 4000},
                     .kept_slots = first.data(),
                     .num_sets = kKvHeads,
                     .num_kept = 120,
                     .to = placed.data(),
                     .to_stride = kRowStride};
  cuda::place_tokens(&job, 1, kKvHeads, nullptr);
  job = {.from = {.tokens = 4000,
                  .dropped_tiles = 0,
                  .num_evicted = 80,
                  .num_placed = 120,
                  .positions = placed.data(),
                  .positions_stride = kRowStride},
         .kept_slots = second.data(),
         .num_sets = 1,
         .num_kept = 90,
         .to = again.data(),
         .to_stride = kRowStride};
  cuda::place_tokens(&job, 1, kKvHeads, nullptr);
  for (int h = 0; h < kKvHeads; ++h) {
    for (int i = 0; i < 90; ++i) {
      const int slot = second[static_cast<std::size_t>(i)];
      const int token = slot < 120 ? first[static_cast<std::size_t>(h * 120 + slot)] : 200 + slot - 120;
      ASSERT_EQ(again[static_cast<std::size_t>(h * kRowStride + i)], token);
    }
  }
}

TEST(CudaPlaceTest, NoJobsAreNoLaunch) {
  cuda::place_tokens(nullptr, 0, kKvHeads, nullptr);
}

}  // namespace
}  // namespace kvcrush
