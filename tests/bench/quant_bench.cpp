// Projections of a small Llama with quantised weights, by number of rows: GMAC/s, and GB/s of weights read.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "engine/core/huge_pages.h"
#include "engine/kernels/cpu/quantized_matrix.h"
#include "engine/kernels/parallel.h"

namespace kvcrush::cpu {
namespace {

// As many copies of a projection as a small model has weights: they do not stay in the core's caches between
// uses.
std::vector<QuantizedMatrix> make_matrices(QuantSource source, std::int64_t in, std::int64_t out) {
  std::mt19937 rng(1);
  std::vector<std::byte> row(static_cast<std::size_t>(in / kQuantHalf * quant_source_bytes(source)));
  for (std::byte& byte : row) byte = static_cast<std::byte>(rng() & 0x3f);
  const auto memory = make_huge_page_memory();
  std::vector<QuantizedMatrix> matrices;
  constexpr std::int64_t kBytes = 64 << 20;
  const std::int64_t copies = kBytes / (in * out / kQuantHalf * quant_source_bytes(source));
  for (std::int64_t i = 0; i < copies; ++i) {
    matrices.emplace_back(in, memory);
    matrices.back().add(source, out, [&](std::int64_t) { return row.data(); });
  }
  return matrices;
}

void projection(benchmark::State& state, QuantSource source) {
  const std::int64_t in = state.range(0);
  const std::int64_t out = state.range(1);
  const auto m = static_cast<int>(state.range(2));
  set_num_kernel_threads(static_cast<int>(state.range(3)));
  const std::vector<QuantizedMatrix> matrices = make_matrices(source, in, out);
  std::vector<float> x(static_cast<std::size_t>(m * in), 0.5f);
  std::vector<float> y(static_cast<std::size_t>(m * out));
  QuantWorkspace workspace;
  std::size_t next = 0;
  for (auto _ : state) {
    quant_gemm(x.data(), in, m, matrices[next++ % matrices.size()], workspace, y.data(), out, false);
    benchmark::DoNotOptimize(y.data());
  }
  const double macs = static_cast<double>(state.iterations()) * static_cast<double>(m * in * out);
  state.counters["GMAC/s"] = benchmark::Counter(macs / 1e9, benchmark::Counter::kIsRate);
  state.counters["GB/s"] = benchmark::Counter(macs / m / kQuantHalf * quant_source_bytes(source) / 1e9,
                                              benchmark::Counter::kIsRate);
}

void shapes(benchmark::internal::Benchmark* bench) {
  for (const auto& [in, out] : {std::pair{576, 960}, {576, 3072}, {1536, 576}})
    for (const int m : {1, 2, 3, 4, 6, 8, 16, 512})
      for (const int threads : {1, 2}) bench->Args({in, out, m, threads});
  bench->ArgNames({"in", "out", "rows", "threads"})->UseRealTime()->MinTime(0.05);
}
BENCHMARK_CAPTURE(projection, q4_1, QuantSource::kQ4_1)->Apply(shapes);
BENCHMARK_CAPTURE(projection, q8_0, QuantSource::kQ8_0)->Apply(shapes);

}  // namespace
}  // namespace kvcrush::cpu
