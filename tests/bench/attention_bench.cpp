// Paged attention of one sequence of a small Llama (9 query heads on 3 KV heads of 64), by cached tokens,
// queries and KV dtype: time per layer, and GB/s of KV read once.
#include <benchmark/benchmark.h>

#include "engine/kernels/parallel.h"
#include "tests/kernels/kernel_fixture.h"

namespace kvcrush {
namespace {

void attention(benchmark::State& state, KvDtype dtype) {
  const HeadLayout heads{9, 3, 64};
  const testing::SequenceShape shape{static_cast<int>(state.range(0)), static_cast<int>(state.range(1))};
  set_num_kernel_threads(static_cast<int>(state.range(2)));
  // As many sequences as do not stay in the core's caches between uses.
  const auto copies = static_cast<std::size_t>(std::clamp(20000 / shape.num_cached, 3, 40));
  testing::PagedCase paged(heads, dtype, std::vector<testing::SequenceShape>(copies, shape), 1);
  ops::kv_append(paged.qkv, heads, paged.sequences, paged.kv);
  const at::Tensor qkv = paged.qkv.narrow(0, 0, shape.num_queries).contiguous();
  at::Tensor out = at::empty({shape.num_queries, heads.num_heads * heads.head_dim}, at::kFloat);
  at::Tensor stats = at::empty({shape.num_queries, heads.num_heads, 2}, at::kFloat);
  cpu::AttentionWorkspace workspace;
  workspace.in_bf16 = true;
  std::size_t next = 0;
  for (auto _ : state) {
    PagedSequence sequence = paged.sequences[next++ % copies];
    sequence.query_start = 0;
    ops::paged_attention(qkv, heads, {&sequence, 1}, paged.kv, workspace, out, stats);
    benchmark::DoNotOptimize(out.data_ptr());
  }
  const double kv_bytes = static_cast<double>(shape.num_cached) * heads.num_kv_heads *
                          static_cast<double>(cpu::token_head_bytes(dtype, heads.head_dim));
  state.counters["GB/s"] = benchmark::Counter(static_cast<double>(state.iterations()) * kv_bytes / 1e9,
                                              benchmark::Counter::kIsRate);
}

void shapes(benchmark::internal::Benchmark* bench) {
  for (const auto& [cached, queries] :
       {std::pair{128, 1}, {512, 1}, {2048, 1}, {6000, 1}, {2048, 5}, {512, 512}, {6000, 512}})
    for (const int threads : {1, 2}) bench->Args({cached, queries, threads});
  bench->ArgNames({"cached", "queries", "threads"})->UseRealTime()->MinTime(0.1);
}
BENCHMARK_CAPTURE(attention, f16, KvDtype::kF16)->Apply(shapes);
BENCHMARK_CAPTURE(attention, bf16, KvDtype::kBF16)->Apply(shapes);
BENCHMARK_CAPTURE(attention, int8, KvDtype::kInt8)->Apply(shapes);
BENCHMARK_CAPTURE(attention, int4, KvDtype::kInt4)->Apply(shapes);

}  // namespace
}  // namespace kvcrush
