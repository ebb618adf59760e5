// Sliding windows: what a query sees is worked out here by hand, position by position.
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <cstring>

#include "engine/kernels/parallel.h"
#include "engine/kernels/reference/kv_access.h"
#include "tests/kernels/kernel_fixture.h"
#include "tests/kernels/window_cases.h"

namespace kvcrush {
namespace {

using testing::max_difference;
using testing::PagedCase;
using testing::SequenceShape;

// As in attention_test: float32 sums of head_dim products, or bfloat16's 9 bits.
double tolerance(const HeadLayout& heads, int longest, bool in_bf16) {
  if (in_bf16) return 5.0 * 6 / (1 << 9);
  return 5.0 / (1 << 24) * (heads.head_dim + 8 * std::sqrt(longest) + 32);
}

std::vector<bool> roundings(const HeadLayout& heads) {
  if (cpu::cpu_kernels().attention_bf16 == nullptr || heads.head_dim % 32 != 0) return {false};
  return {false, true};
}

// Logical position of a slot, whatever the kernels make of the same description.
int position_of(const cpu::CachedLayer& cache, int kv_head, int slot) {
  const cpu::SlidingWindow& window = cache.window;
  return slot < window.num_placed ? window.positions[kv_head * window.num_placed + slot]
                                  : window.num_evicted + slot;
}

// One sequence's rows, [num_queries, Hq D].
at::Tensor by_hand(const PagedCase& paged, const PagedSequence& sequence, const at::Tensor& qkv) {
  const HeadLayout& heads = paged.heads;
  const auto [k, v] = reference::read_cached(sequence.cache, paged.kv);
  at::Tensor out = at::zeros({sequence.num_queries, heads.num_heads * heads.head_dim}, at::kFloat);
  for (int row = 0; row < sequence.num_queries; ++row) {
    for (int h = 0; h < heads.num_heads; ++h) {
      const int kv_head = h / (heads.num_heads / heads.num_kv_heads);
      const int slot = sequence.cache.num_cached - sequence.num_queries + row;
      const at::Tensor q = qkv[sequence.query_start + row].narrow(0, h * heads.head_dim, heads.head_dim);
      at::Tensor scores = at::mv(k[kv_head], q) / std::sqrt(static_cast<double>(heads.head_dim));
      for (int s = 0; s < sequence.cache.num_cached; ++s) {
        const int age = position_of(sequence.cache, kv_head, slot) - position_of(sequence.cache, kv_head, s);
        if (s > slot || age >= sequence.cache.window.tokens) scores[s] = -INFINITY;
      }
      out[row]
          .narrow(0, h * heads.head_dim, heads.head_dim)
          .copy_(at::mv(v[kv_head].t(), at::softmax(scores, 0)));
    }
  }
  return out;
}

struct Attended {
  at::Tensor out, stats;
};

Attended attend(PagedCase& paged, const at::Tensor& qkv, std::span<const PagedSequence> sequences,
                bool in_bf16) {
  const HeadLayout& heads = paged.heads;
  Attended result{at::empty({qkv.size(0), heads.num_heads * heads.head_dim}, at::kFloat),
                  at::empty({qkv.size(0), heads.num_heads, 2}, at::kFloat)};
  cpu::AttentionWorkspace workspace;
  workspace.in_bf16 = in_bf16;
  ops::paged_attention(qkv, heads, sequences, paged.kv, workspace, result.out, result.stats);
  return result;
}

class WindowTest : public ::testing::TestWithParam<std::tuple<int, KvDtype>> {
 protected:
  int window() const { return std::get<0>(GetParam()); }
  KvDtype dtype() const { return std::get<1>(GetParam()); }
};

const HeadLayout kHeads{6, 2, 32};
const std::vector<SequenceShape> kShapes = {{1, 1}, {70, 9}, {700, 1}, {640, 40}, {33, 33}};

TEST_P(WindowTest, QueriesSeeTheirWindow) {
  for (const HeadLayout& heads : {kHeads, HeadLayout{4, 1, 256}}) {
    PagedCase paged(heads, dtype(), kShapes, 41);
    for (PagedSequence& sequence : paged.sequences) sequence.cache.window.tokens = window();
    ops::kv_append(paged.qkv, heads, paged.sequences, paged.kv);
    at::Tensor reference = at::empty({paged.qkv.size(0), heads.num_heads * heads.head_dim}, at::kFloat);
    at::Tensor stats = at::empty({paged.qkv.size(0), heads.num_heads, 2}, at::kFloat);
    reference::paged_attention(paged.qkv, heads, paged.sequences, paged.kv, reference, stats);
    for (const bool in_bf16 : roundings(heads)) {
      const Attended ours = attend(paged, paged.qkv, paged.sequences, in_bf16);
      EXPECT_LT(max_difference(ours.stats, stats), tolerance(heads, 700, in_bf16));
      for (const PagedSequence& sequence : paged.sequences) {
        const at::Tensor expected = by_hand(paged, sequence, paged.qkv);
        const auto rows = [&](const at::Tensor& all) {
          return all.narrow(0, sequence.query_start, sequence.num_queries);
        };
        EXPECT_LT(max_difference(rows(ours.out), expected), tolerance(heads, 700, in_bf16)) << in_bf16;
        EXPECT_LT(max_difference(rows(reference), expected), tolerance(heads, 700, false));
      }
    }
  }
}

// Whether blocks that the window has passed are still there must not change a bit, nor how many threads work.
TEST_P(WindowTest, DroppedBlocksLeaveNoTrace) {
  PagedCase paged(kHeads, dtype(), {{900, 3}}, 42);
  PagedSequence& sequence = paged.sequences[0];
  sequence.cache.window.tokens = window();
  ops::kv_append(paged.qkv, kHeads, paged.sequences, paged.kv);
  const int first_seen = std::max(0, 897 - window() + 1);
  for (const bool in_bf16 : roundings(kHeads)) {
    set_num_kernel_threads(1);
    const Attended whole = attend(paged, paged.qkv, paged.sequences, in_bf16);
    set_num_kernel_threads(3);
    PagedSequence dropped = sequence;
    int num_dropped = 0;
    while (true) {
      const bool packed = dropped.cache.num_packed > 0;
      const int count = packed
                            ? std::min(dropped.cache.format.packed_tokens_per_block, dropped.cache.num_packed)
                            : dropped.cache.format.tail_tokens_per_block;
      if (num_dropped + count > first_seen) break;
      cpu::CachedLayer& cache = dropped.cache;
      cache.window.dropped_tiles =
          (cache.window.dropped_tiles + cpu::num_tiles(cache, count)) % cpu::kPartitionTiles;
      ++cache.blocks;
      cache.num_cached -= count;
      if (packed) cache.num_packed -= count;
      num_dropped += count;
      cache.window.num_evicted = num_dropped;
      const Attended rest = attend(paged, paged.qkv, {&dropped, 1}, in_bf16);
      ASSERT_TRUE(at::equal(rest.out, whole.out)) << num_dropped << " tokens dropped, bf16: " << in_bf16;
      ASSERT_TRUE(at::equal(rest.stats, whole.stats)) << num_dropped << " tokens dropped";
    }
    set_num_kernel_threads(1);
    EXPECT_EQ(num_dropped > 0, window() <= 600);
  }
}

// After pruning a head's slots have positions of their own.
TEST_P(WindowTest, PrunedSlotsLeaveTheWindowByPosition) {
  PagedCase paged(kHeads, dtype(), {{300, 5}}, 43);
  PagedSequence& sequence = paged.sequences[0];
  ops::kv_append(paged.qkv, kHeads, paged.sequences, paged.kv);
  constexpr int kPlaced = 250;
  constexpr int kEvicted = 450;  // of the 700 tokens that the first 250 slots were chosen from
  const std::vector<std::int32_t> positions =
      testing::random_positions(kHeads.num_kv_heads, kPlaced, kEvicted, 44);
  sequence.cache.window = {.tokens = window(),
                           .dropped_tiles = 0,
                           .num_evicted = kEvicted,
                           .num_placed = kPlaced,
                           .positions = positions.data(),
                           .positions_stride = kPlaced};
  const at::Tensor expected = by_hand(paged, sequence, paged.qkv);
  for (const bool in_bf16 : roundings(kHeads)) {
    const Attended ours = attend(paged, paged.qkv, paged.sequences, in_bf16);
    EXPECT_LT(max_difference(ours.out, expected), tolerance(kHeads, 300, in_bf16)) << in_bf16;
  }
  // What observed queries saw.
  const int group = kHeads.num_heads / kHeads.num_kv_heads;
  const Attended ours = attend(paged, paged.qkv, paged.sequences, false);
  const at::Tensor queries = paged.qkv.narrow(1, 0, kHeads.num_heads * kHeads.head_dim).contiguous();
  const at::Tensor reference_sums = reference::probability_sums(queries, kHeads, sequence.cache, paged.kv);
  std::vector<float> scratch(static_cast<std::size_t>(cpu::probability_scratch_floats()));
  std::vector<const float*> rows, stats;
  for (int i = 0; i < 5; ++i) {
    rows.push_back(queries[i].const_data_ptr<float>());
    stats.push_back(ours.stats[i].const_data_ptr<float>());
  }
  for (int h = 0; h < kHeads.num_kv_heads; ++h) {
    at::Tensor sums = at::zeros({group, 300}, at::kFloat);
    cpu::cpu_kernels().probability_sums(paged.kv.cpu_pool(), sequence.cache, h, group, rows.data(),
                                        stats.data(), 5, 0, 1.0F / std::sqrt(32.0F), scratch.data(),
                                        sums.data_ptr<float>(), 300);
    EXPECT_LT(max_difference(sums, reference_sums.narrow(0, h * group, group)),
              5 * tolerance(kHeads, 300, false));
    EXPECT_NEAR(sums.sum().item<float>(), static_cast<float>(5 * group), 1e-3);
  }
}

INSTANTIATE_TEST_SUITE_P(Windows, WindowTest,
                         ::testing::Combine(::testing::Values(1, 7, 33, 200, 600, 5000),
                                            testing::all_kv_dtypes()));

}  // namespace
}  // namespace kvcrush
