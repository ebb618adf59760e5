// What pruning reads on the GPU, run by the simulator, against the ATen reference.
#include <gtest/gtest.h>

#include "tests/kernels/cuda_observe_fixture.h"

namespace kvcrush {
namespace {

using cuda::ActivationType;
using testing::expect_close;
using testing::max_difference;
using testing::no_sums;
using testing::Observed;
using testing::PagedCase;
using testing::scalar_type;
using testing::sum_over;
using testing::sum_ring;
using testing::tolerance;

struct ObserveCase {
  HeadLayout heads;
  int num_cached;
};

const std::vector<ObserveCase>& cases() {
  static const std::vector<ObserveCase> all = {
      {{9, 3, 64}, 1},   {{9, 3, 64}, 17},   {{6, 2, 64}, 131}, {{2, 2, 64}, 200},
      {{8, 1, 128}, 50}, {{4, 2, 128}, 140}, {{2, 1, 96}, 90},  {{2, 1, 256}, 100},
  };
  return all;
}

class CudaObserveTest : public ::testing::TestWithParam<std::tuple<int, KvDtype>> {
 protected:
  static const ObserveCase& shape() { return cases().at(static_cast<std::size_t>(std::get<0>(GetParam()))); }
  static KvDtype dtype() { return std::get<1>(GetParam()); }
};

TEST_P(CudaObserveTest, ProbabilitySumsMatchReference) {
  const int num_cached = shape().num_cached;
  const Observed o(shape().heads, dtype(), num_cached, std::min(num_cached, 37), 20);
  const at::Tensor sums = sum_ring(o, o.cache(), 0);
  expect_close(sums, reference::probability_sums(o.queries, o.heads(), o.cache(), o.paged.kv),
               tolerance(dtype()));

  // As h2o accumulates them, chunk by chunk, from rows of any type.
  const auto type = static_cast<ActivationType>(std::get<0>(GetParam()) % 3);
  at::Tensor in_parts = no_sums(o);
  int summed = 0;
  for (int first = 0; first < o.window();) {
    const int last = std::min(o.window(), first + (first == 0 ? 1 + o.window() / 3 : 17));
    sum_over(o, type, first, last, summed, in_parts);
    summed = num_cached - o.window() + last;
    first = last;
  }
  EXPECT_TRUE(at::equal(in_parts.narrow(1, 0, num_cached), sums));

  // The newest tokens taken out of the cache again: their queries' probabilities of the others stay.
  const int num_after = std::min({5, o.window() - 1, num_cached - o.cache().num_packed - 1});
  if (num_after <= 0) return;
  cpu::CachedLayer before = o.cache();
  before.num_cached -= num_after;
  const at::Tensor kept = sum_ring(o, before, num_after);
  EXPECT_TRUE(at::equal(kept, sums.narrow(1, 0, before.num_cached)));
  expect_close(kept,
               reference::probability_sums_after(o.queries, o.stats.flatten(1), num_after, o.heads(), before,
                                                 o.paged.kv),
               tolerance(dtype()));
}

// Norms reach 20 and are sums of head_dim squares, cosines are against a mean over all slots: some units of
// float each.
TEST_P(CudaObserveTest, KeyScoresAndValueNormsMatchReference) {
  const HeadLayout& heads = shape().heads;
  const int num_cached = 11 * shape().num_cached;
  const PagedCase paged(heads, dtype(), {{num_cached + 3, 0}}, 23);
  cpu::CachedLayer cache = paged.sequences[0].cache;
  cache.num_cached = num_cached;  // what lies in the slots behind is not counted
  const cpu::KvPool pool = paged.kv.cpu_pool();
  const double allowed = 20.0 / (1 << 24) * (heads.head_dim + 8 * std::sqrt(num_cached) + 32);
  at::Tensor scores[2];
  std::vector<cuda::KeyScoreJob> jobs;
  for (const int against_mean : {0, 1}) {
    scores[against_mean] = at::full({heads.num_kv_heads, num_cached + 2}, NAN, at::kFloat);
    jobs.push_back({.cache = cache,
                    .against_mean = against_mean,
                    .scores = scores[against_mean].data_ptr<float>(),
                    .scores_stride = num_cached + 2});
  }
  std::vector<float> workspace(static_cast<std::size_t>(cuda::key_score_workspace_floats(pool, 2)), NAN);
  cuda::key_scores({.jobs = jobs.data(),
                    .num_jobs = 2,
                    .max_cached = num_cached,
                    .pool = pool,
                    .workspace = workspace.data()},
                   nullptr);
  for (const bool against_mean : {false, true}) {
    const at::Tensor actual = scores[against_mean ? 1 : 0].narrow(1, 0, num_cached);
    EXPECT_LT(max_difference(actual, reference::key_scores(cache, against_mean, paged.kv)), allowed);
  }
  at::Tensor norms = at::full({heads.num_kv_heads, num_cached + 2}, NAN, at::kFloat);
  const cuda::ValueNormJob job{cache, norms.data_ptr<float>(), num_cached + 2};
  cuda::value_norms({.jobs = &job, .num_jobs = 1, .max_cached = num_cached, .pool = pool}, nullptr);
  EXPECT_LT(max_difference(norms.narrow(1, 0, num_cached), reference::value_norms(cache, paged.kv)),
            1e-6 * heads.head_dim);
  EXPECT_TRUE(norms.narrow(1, num_cached, 2).isnan().all().item<bool>());
}

// Layers of two sequences in one launch that was sized for shorter ones, and a place that is not used.
TEST(CudaObserveBatchTest, ManyJobsInOneLaunch) {
  const HeadLayout heads{6, 2, 64};
  const Observed first(heads, KvDtype::kF16, 300, 20, 31);
  const Observed second(heads, KvDtype::kInt4, 150, 33, 32);
  // One pool holds both: the second one's bytes after the first one's.
  const at::Tensor bytes = at::cat({first.paged.kv.bytes(), second.paged.kv.bytes()});
  cpu::KvPool pool = first.paged.kv.cpu_pool();
  pool.base = static_cast<std::byte*>(bytes.data_ptr());
  std::vector<std::int32_t> moved(second.cache().blocks,
                                  second.cache().blocks + PagedCase::num_blocks_of(second.cache()));
  for (std::int32_t& block : moved) block += static_cast<std::int32_t>(first.paged.kv.bytes().size(0));

  std::vector<cuda::ProbabilityJob> jobs(3);
  const Observed* const sequences[] = {&first, nullptr, &second};
  at::Tensor sums[3];
  at::Tensor rings[3];
  for (const int i : {0, 2}) {
    const Observed& o = *sequences[i];
    sums[i] = no_sums(o);
    rings[i] = o.queries.to(at::kHalf);
    jobs[static_cast<std::size_t>(i)] = {.cache = o.cache(),
                                         .queries = rings[i].const_data_ptr(),
                                         .row_stats = o.stats.const_data_ptr<float>(),
                                         .num_queries = o.window(),
                                         .sums = sums[i].data_ptr<float>(),
                                         .sums_stride = sums[i].size(1)};
  }
  jobs[2].cache.blocks = moved.data();
  cuda::ProbabilityCall call = first.call(jobs, ActivationType::kF16, first.queries.size(1));
  call.max_cached = 16;
  call.pool = pool;
  cuda::probability_sums(call, nullptr);
  for (const int i : {0, 2}) {
    const Observed& o = *sequences[i];
    EXPECT_TRUE(at::equal(sums[i].narrow(1, 0, o.cache().num_cached), sum_ring(o, o.cache(), 0)));
  }
}

// Slots that no query of a call saw keep their sums, or start at zero.
TEST(CudaObserveBatchTest, CallsWithoutQueriesLeaveSums) {
  const Observed o({4, 2, 64}, KvDtype::kF16, 40, 1, 33);
  at::Tensor sums = at::full({4, 41}, 2.5, at::kFloat);
  sum_over(o, ActivationType::kF16, 0, 0, 25, sums);  // before the only query: 39 slots
  EXPECT_TRUE(at::equal(sums.narrow(1, 0, 25), at::full({4, 25}, 2.5, at::kFloat)));
  EXPECT_TRUE(at::equal(sums.narrow(1, 25, 14), at::zeros({4, 14}, at::kFloat)));
  EXPECT_TRUE(at::equal(sums.narrow(1, 39, 2), at::full({4, 2}, 2.5, at::kFloat)));
}

TEST(CudaObserveBatchTest, RecordsRowsInTheirRings) {
  constexpr int kLayers = 2;
  constexpr int kWidth = 3 * 32;
  const at::Tensor stats = testing::random_tensor({5, 3, 2}, 41);
  for (const auto type : {ActivationType::kF32, ActivationType::kF16, ActivationType::kBF16}) {
    const at::Tensor qkv = testing::random_tensor({5, 5 * 32}, 40).to(scalar_type(type));
    at::Tensor rings[] = {at::zeros({kLayers, 4, kWidth}, at::kHalf),
                          at::zeros({kLayers, 7, kWidth}, at::kHalf)};
    at::Tensor ring_stats[] = {at::zeros({kLayers, 4, 3, 2}, at::kFloat),
                               at::zeros({kLayers, 7, 3, 2}, at::kFloat)};
    at::Tensor expected[] = {rings[0].clone(), rings[1].clone()};
    at::Tensor expected_stats[] = {ring_stats[0].clone(), ring_stats[1].clone()};
    std::vector<cuda::QueryCopy> copies;
    for (const auto& [ring, source, target] :
         std::vector<std::array<int, 3>>{{0, 4, 0}, {0, 3, 3}, {1, -1, 2}, {1, 1, 6}, {1, 0, 5}}) {
      copies.push_back({.queries = rings[ring].data_ptr(),
                        .row_stats = ring_stats[ring].data_ptr<float>(),
                        .source_row = source,
                        .ring_row = target,
                        .ring_rows = static_cast<int>(rings[ring].size(1))});
      if (source < 0) continue;
      expected[ring][1][target].copy_(qkv[source].narrow(0, 0, kWidth));
      expected_stats[ring][1][target].copy_(stats[source]);
    }
    cuda::record_queries({.copies = copies.data(),
                          .num_copies = static_cast<int>(copies.size()),
                          .layer = 1,
                          .num_heads = 3,
                          .head_dim = 32,
                          .activations = type,
                          .qkv = qkv.const_data_ptr(),
                          .qkv_stride = qkv.size(1),
                          .row_stats = stats.const_data_ptr<float>()},
                         nullptr);
    for (const int i : {0, 1}) {
      EXPECT_TRUE(at::equal(rings[i], expected[i]));
      EXPECT_TRUE(at::equal(ring_stats[i], expected_stats[i]));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaObserveTest,
                         ::testing::Combine(::testing::Range(0, static_cast<int>(cases().size())),
                                            testing::all_kv_dtypes()),
                         testing::case_name);

}  // namespace
}  // namespace kvcrush
