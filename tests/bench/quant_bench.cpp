// Projections of a small Llama with quantised weights, by number of rows: GMAC/s, and GB/s of weights read.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <random>
#include <span>
#include <vector>

#include "engine/core/huge_pages.h"
#include "engine/kernels/cpu/quantized_matrix.h"
#include "engine/kernels/parallel.h"

namespace kvcrush::cpu {
namespace {

// As many copies of a projection as a small model has weights: they do not stay in the core's caches between
// uses.
std::vector<QuantizedMatrix> make_matrices(int bits, std::int64_t in, std::int64_t out) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<float> values(static_cast<std::size_t>(in));
  for (float& value : values) value = normal(rng);
  CodeBlock block{.d = 0.01f, .m = 0.002f};
  for (std::size_t i = 0; i < block.codes.size(); ++i) block.codes[i] = static_cast<std::int8_t>(i % 16) - 8;
  const auto memory = make_huge_page_memory();
  std::vector<QuantizedMatrix> matrices;
  constexpr std::int64_t kBytes = 64 << 20;
  for (std::int64_t i = 0; i < kBytes / (in * out * bits / 8); ++i) {
    QuantizedMatrix& matrix = matrices.emplace_back(in, memory);
    if (bits == 4)
      matrix.add_int4(out,
                      [&](std::int64_t, std::span<CodeBlock> to) { std::fill(to.begin(), to.end(), block); });
    else
      matrix.add_int8(out, [&](std::int64_t, std::span<float> to) {
        std::copy(values.begin(), values.end(), to.begin());
      });
  }
  return matrices;
}

void projection(benchmark::State& state, int bits) {
  const std::int64_t in = state.range(0);
  const std::int64_t out = state.range(1);
  const auto m = static_cast<int>(state.range(2));
  set_num_kernel_threads(static_cast<int>(state.range(3)));
  const std::vector<QuantizedMatrix> matrices = make_matrices(bits, in, out);
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
  const QuantPanels& panels = matrices.front().parts().front().panels;
  const double group_bytes = panels.code_bytes() + panels.side_bytes();
  state.counters["GB/s"] = benchmark::Counter(macs / m / (kQuantGroup * kQuantPanel) * group_bytes / 1e9,
                                              benchmark::Counter::kIsRate);
}

void shapes(benchmark::internal::Benchmark* bench) {
  for (const auto& [in, out] : {std::pair{576, 960}, {576, 3072}, {1536, 576}})
    for (const int m : {1, 2, 3, 4, 6, 8, 16, 512})
      for (const int threads : {1, 2}) bench->Args({in, out, m, threads});
  bench->ArgNames({"in", "out", "rows", "threads"})->UseRealTime()->MinTime(0.05);
}
BENCHMARK_CAPTURE(projection, int4, 4)->Apply(shapes);
BENCHMARK_CAPTURE(projection, int8, 8)->Apply(shapes);

}  // namespace
}  // namespace kvcrush::cpu
