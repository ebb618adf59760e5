// Newest queries over a cache of random tokens, and what the GPU's kernels, run by the simulator, sum up of
// them.
#pragma once

#include "engine/kernels/cuda/observe.h"
#include "tests/kernels/kernel_fixture.h"

namespace kvcrush::testing {

inline at::ScalarType scalar_type(cuda::ActivationType type) {
  return type == cuda::ActivationType::kF32
             ? at::kFloat
             : (type == cuda::ActivationType::kF16 ? at::kHalf : at::kBFloat16);
}

// A sequence, its newest queries and what attention left of them.
struct Observed {
  PagedCase paged;
  at::Tensor queries;  // [W, Hq D] float32, of numbers that all activation types hold
  at::Tensor stats;    // [W, Hq, 2]

  Observed(const HeadLayout& heads, KvDtype dtype, int num_cached, int window, std::uint64_t seed,
           const cpu::SlidingWindow& sliding_window = {})
      : paged(heads, dtype, {{num_cached, window}}, seed) {
    paged.sequences[0].cache.window = sliding_window;
    paged.qkv = paged.qkv.to(at::kBFloat16).to(at::kHalf).to(at::kFloat);
    ops::kv_append(paged.qkv, heads, paged.sequences, paged.kv);
    queries = paged.qkv.narrow(1, 0, heads.num_heads * heads.head_dim).contiguous();
    at::Tensor out = at::empty_like(queries);
    stats = at::empty({window, heads.num_heads, 2}, at::kFloat);
    reference::paged_attention(paged.qkv, heads, paged.sequences, paged.kv, out, stats);
  }
  const HeadLayout& heads() const { return paged.heads; }
  const cpu::CachedLayer& cache() const { return paged.sequences[0].cache; }
  int window() const { return static_cast<int>(queries.size(0)); }
  cuda::ProbabilityCall call(std::span<const cuda::ProbabilityJob> jobs, cuda::ActivationType type,
                             std::int64_t query_stride) const {
    return {.jobs = jobs.data(),
            .num_jobs = static_cast<int>(jobs.size()),
            .max_cached = cache().num_cached,
            .pool = paged.kv.cpu_pool(),
            .num_heads = heads().num_heads,
            .scale = 1.0F / std::sqrt(static_cast<float>(heads().head_dim)),
            .queries = type,
            .query_stride = query_stride};
  }
};

inline at::Tensor no_sums(const Observed& o) {
  return at::full({o.heads().num_heads, o.cache().num_cached + 3}, NAN, at::kFloat);
}

// Queries [first, last) as rows of qkv, with the cache as it was when the last one of them was the newest.
inline void sum_over(const Observed& o, cuda::ActivationType type, int first, int last, int num_summed,
                     at::Tensor& sums) {
  const at::Tensor qkv = o.paged.qkv.to(scalar_type(type));
  cuda::ProbabilityJob job{.cache = o.cache(),
                           .queries = qkv[first].const_data_ptr(),
                           .row_stats = o.stats[first].const_data_ptr<float>(),
                           .num_queries = last - first,
                           .num_summed = num_summed,
                           .sums = sums.data_ptr<float>(),
                           .sums_stride = sums.size(1)};
  job.cache.num_cached -= o.window() - last;
  cuda::probability_sums(o.call({&job, 1}, type, qkv.size(1)), nullptr);
}

// Queries out of a ring, in which they lie anywhere.
inline at::Tensor sum_ring(const Observed& o, const cpu::CachedLayer& cache, int num_after) {
  const int rows = o.window() + 5;
  std::vector<std::int32_t> order(static_cast<std::size_t>(rows));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(3));
  order.resize(static_cast<std::size_t>(o.window()));
  at::Tensor ring = at::full({rows, o.queries.size(1)}, NAN, at::kHalf);
  at::Tensor ring_stats = at::full({rows, o.heads().num_heads, 2}, NAN, at::kFloat);
  for (int i = 0; i < o.window(); ++i) {
    ring[order[static_cast<std::size_t>(i)]].copy_(o.queries[i]);
    ring_stats[order[static_cast<std::size_t>(i)]].copy_(o.stats[i]);
  }
  at::Tensor sums = no_sums(o);
  const cuda::ProbabilityJob job{.cache = cache,
                                 .queries = ring.const_data_ptr(),
                                 .row_stats = ring_stats.const_data_ptr<float>(),
                                 .rows = order.data(),
                                 .num_queries = o.window(),
                                 .num_after = num_after,
                                 .sums = sums.data_ptr<float>(),
                                 .sums_stride = sums.size(1)};
  cuda::probability_sums(o.call({&job, 1}, cuda::ActivationType::kF16, ring.size(1)), nullptr);
  EXPECT_TRUE(sums.narrow(1, cache.num_cached, sums.size(1) - cache.num_cached).isnan().all().item<bool>());
  return sums.narrow(1, 0, cache.num_cached).contiguous();
}

// Relative, of a probability: the error of its score. Queries here are float16 numbers. K of float32 and of
// codes is rounded to float16 (2^-12 each on average, codes twice), which averages out over the channels: the
// score, a sum of head_dim products of size 1 over sqrt(head_dim), is off by some 2^-12, by 8 times as much
// at worst. Else only float sums (2^-22) and exp2 differ.
inline double tolerance(KvDtype dtype) {
  return dtype == KvDtype::kF16 || dtype == KvDtype::kBF16 ? 0x1p-15 : 0x1p-9;
}
inline void expect_close(const at::Tensor& actual, const at::Tensor& expected, double relative) {
  const at::Tensor allowed = expected.abs() * relative + 1e-7;
  EXPECT_TRUE(((actual - expected).abs() <= allowed).all().item<bool>())
      << "off by " << max_difference(actual, expected);
}

}  // namespace kvcrush::testing
