// Projections with quantised weights against their definition in plain loops: to the bit, whatever the
// instruction set, the number of rows and how they are cut.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "engine/core/huge_pages.h"
#include "engine/kernels/cpu/quantized_matrix.h"
#include "engine/kernels/parallel.h"

namespace kvcrush::cpu {
namespace {

constexpr int kBlock = kQuantHalf;

enum class Kind { kInt8, kInt4, kInt4WithMinimum };

// Weights as a file has them: floats, or blocks of 4-bit codes.
struct Source {
  Kind kind = Kind::kInt8;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::vector<float> values;      // [rows, columns], of kInt8
  std::vector<CodeBlock> blocks;  // [rows, columns / 32], of the others

  float weight(std::int64_t row, std::int64_t column) const {
    if (kind == Kind::kInt8) return values[static_cast<std::size_t>(row * columns + column)];
    const CodeBlock& block = blocks[static_cast<std::size_t>((row * columns + column) / kBlock)];
    return block.d * static_cast<float>(block.codes[static_cast<std::size_t>(column % kBlock)]) + block.m;
  }
};

Source random_source(Kind kind, std::int64_t rows, std::int64_t columns, std::mt19937& rng) {
  Source source{.kind = kind, .rows = rows, .columns = columns, .values = {}, .blocks = {}};
  std::uniform_int_distribution<int> code(-8, 7);
  std::uniform_real_distribution<float> scale(-0.02f, 0.02f);
  if (kind == Kind::kInt8) {
    source.values.resize(static_cast<std::size_t>(rows * columns));
    for (float& value : source.values) value = 10 * scale(rng);
    return source;
  }
  source.blocks.resize(static_cast<std::size_t>(rows * columns / kBlock));
  for (CodeBlock& block : source.blocks) {
    block.d = scale(rng);
    if (kind == Kind::kInt4WithMinimum) block.m = 4 * scale(rng);
    for (std::int8_t& q : block.codes) q = static_cast<std::int8_t>(code(rng));
  }
  return source;
}

void add_to(QuantizedMatrix& matrix, const Source& source) {
  const auto copy_row = [&source](const auto& from, std::int64_t row, auto to) {
    std::copy_n(from.begin() + row * static_cast<std::ptrdiff_t>(to.size()), to.size(), to.begin());
  };
  if (source.kind == Kind::kInt8) {
    matrix.add_int8(source.rows,
                    [&](std::int64_t row, std::span<float> out) { copy_row(source.values, row, out); });
  } else {
    matrix.add_int4(source.rows,
                    [&](std::int64_t row, std::span<CodeBlock> out) { copy_row(source.blocks, row, out); });
  }
}

QuantizedMatrix pack(const Source& source) {
  QuantizedMatrix matrix(source.columns, make_huge_page_memory());
  add_to(matrix, source);
  return matrix;
}

struct Quantized {
  std::vector<int> codes;
  std::vector<float> scales;
};
// Adding it rounds to an integer, half to even; where multiply-adds are fused the product is not rounded
// before.
constexpr float kRound = 12582912.0f;
Quantized quantize_plainly(const float* x, std::int64_t columns) {
  const bool fused = std::string(cpu_kernels().isa) != "generic";
  Quantized q;
  for (std::int64_t first = 0; first < columns; first += kQuantGroup) {
    const std::int64_t count = std::min<std::int64_t>(kQuantGroup, columns - first);
    float top = 0.0f;
    for (int i = 0; i < count; ++i) top = std::max(top, std::abs(x[first + i]));
    const float inverse = top > 1e-30f ? 127.0f / top : 0.0f;
    q.scales.push_back(top / (127.0f * kScaledCode));
    for (int i = 0; i < count; ++i)
      q.codes.push_back(static_cast<int>(
          (fused ? std::fma(x[first + i], inverse, kRound) : x[first + i] * inverse + kRound) - kRound));
  }
  return q;
}

// The definition: a group's integers times the activations', exactly; then both scales, group by group.
float product(const QuantizedMatrix& w, std::int64_t row, const Quantized& x) {
  float sum = 0.0f;
  std::array<std::int8_t, kQuantGroup> codes;
  for (std::size_t g = 0; g < x.scales.size(); ++g) {
    const float scale = w.read_group(row, static_cast<std::int64_t>(g), codes.data()) * kScaledCode;
    int dot = 0;
    for (std::size_t i = g * kQuantGroup; i < std::min(x.codes.size(), (g + 1) * kQuantGroup); ++i)
      dot += codes[i % kQuantGroup] * x.codes[i];
    sum = std::fma(static_cast<float>(dot) * x.scales[g], scale, sum);
  }
  return sum;
}

// Instruction sets without fused multiply-add round once more a block.
void expect_same(float actual, float expected, float magnitude, const std::string& where) {
  if (std::string(cpu_kernels().isa) == "generic") {
    EXPECT_NEAR(actual, expected, 1e-5f * magnitude) << where;
  } else {
    EXPECT_EQ(actual, expected) << where;
  }
}

std::vector<float> random_rows(std::int64_t count, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  std::vector<float> rows(static_cast<std::size_t>(count));
  for (float& x : rows) x = normal(rng);
  return rows;
}

class QuantGemm : public testing::TestWithParam<Kind> {};

TEST_P(QuantGemm, RowsComeBackCloseToTheirBlocks) {
  std::mt19937 rng(2);
  const Source w = random_source(GetParam(), 35, 96, rng);
  const QuantizedMatrix matrix = pack(w);
  std::vector<float> row(96);
  for (std::int64_t r = 0; r < w.rows; ++r) {
    matrix.read_row(r, row.data());
    for (std::int64_t first = 0; first < w.columns; first += kQuantGroup) {
      const std::int64_t last = std::min(w.columns, first + kQuantGroup);
      float top = 0.0f;
      for (std::int64_t i = first; i < last; ++i) top = std::max(top, std::abs(w.weight(r, i)));
      // A multiplier and an offset off by half a step each, and the scale's own rounding (quant_fit_test).
      const float allowed = top * (GetParam() == Kind::kInt8 ? 0.5f / 127 : 4.5f / 110) + top / 1024;
      for (std::int64_t i = first; i < last; ++i)
        ASSERT_NEAR(row[static_cast<std::size_t>(i)], w.weight(r, i), allowed) << r << ", " << i;
    }
  }
}

TEST_P(QuantGemm, EqualsItsDefinitionForAllShapes) {
  std::mt19937 rng(1);
  QuantWorkspace workspace;
  for (const std::int64_t columns : {32, 64, 96, 576}) {
    for (const std::int64_t outputs : {1, 16, 17, 40, 100}) {
      const Source w = random_source(GetParam(), outputs, columns, rng);
      const QuantizedMatrix matrix = pack(w);
      for (const int m : {1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 33}) {
        const std::int64_t ldx = columns + 5;
        const std::int64_t ldy = outputs + 3;
        const std::vector<float> x = random_rows(m * ldx, rng);
        const std::vector<float> before = random_rows(m * ldy, rng);
        for (const bool accumulate : {false, true}) {
          std::vector<float> y = before;
          quant_gemm(x.data(), ldx, m, matrix, workspace, y.data(), ldy, accumulate);
          for (int r = 0; r < m; ++r) {
            const Quantized q = quantize_plainly(x.data() + r * ldx, columns);
            for (std::int64_t o = 0; o < ldy; ++o) {
              const auto at = static_cast<std::size_t>(r * ldy + o);
              float expected = before[at];
              if (o < outputs)
                expected = accumulate ? expected + product(matrix, o, q) : product(matrix, o, q);
              expect_same(y[at], expected, static_cast<float>(columns),
                          "row " + std::to_string(r) + ", output " + std::to_string(o) + " of " +
                              std::to_string(m) + " x " + std::to_string(outputs) + " x " +
                              std::to_string(columns));
              if (HasFailure()) return;
            }
          }
        }
      }
    }
  }
}

// Against activations that are not rounded: each is off by half a step at the most.
TEST_P(QuantGemm, IsAsCloseAsInt8ActivationsAllow) {
  std::mt19937 rng(2);
  constexpr std::int64_t kColumns = 1536;
  const Source w = random_source(GetParam(), 48, kColumns, rng);
  const QuantizedMatrix matrix = pack(w);
  const std::vector<float> x = random_rows(3 * kColumns, rng);
  std::vector<float> y(3 * 48);
  QuantWorkspace workspace;
  quant_gemm(x.data(), kColumns, 3, matrix, workspace, y.data(), 48, false);
  std::vector<float> weights(kColumns);
  for (int r = 0; r < 3; ++r) {
    const Quantized q = quantize_plainly(x.data() + r * kColumns, kColumns);
    for (int o = 0; o < 48; ++o) {
      matrix.read_row(o, weights.data());
      double exact = 0;
      double allowed = 1e-4;
      for (std::size_t i = 0; i < kColumns; ++i) {
        exact += static_cast<double>(weights[i]) * x[static_cast<std::size_t>(r) * kColumns + i];
        allowed += 0.5 * std::abs(weights[i]) * q.scales[i / kQuantGroup] * kScaledCode;
      }
      EXPECT_NEAR(y[static_cast<std::size_t>(r * 48 + o)], exact, allowed);
    }
  }
}

TEST_P(QuantGemm, ShowsWhatIsNotFinite) {
  std::mt19937 rng(3);
  const Source w = random_source(GetParam(), 20, 64, rng);
  const QuantizedMatrix matrix = pack(w);
  QuantWorkspace workspace;
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                             -std::numeric_limits<float>::infinity()}) {
    for (const int m : {1, 9}) {
      std::vector<float> x = random_rows(m * 64, rng);
      x[40] = poison;
      std::vector<float> y(static_cast<std::size_t>(m) * 20);
      quant_gemm(x.data(), 64, m, matrix, workspace, y.data(), 20, false);
      for (int i = 0; i < m * 20; ++i) EXPECT_EQ(std::isnan(y[static_cast<std::size_t>(i)]), i < 20) << i;
    }
  }
}

TEST_P(QuantGemm, TinyActivationsCountAsZero) {
  std::mt19937 rng(4);
  const Source w = random_source(GetParam(), 16, 32, rng);
  const QuantizedMatrix matrix = pack(w);
  QuantWorkspace workspace;
  std::vector<float> x(32, 1e-38f);
  std::vector<float> y(16, 1.0f);
  quant_gemm(x.data(), 32, 1, matrix, workspace, y.data(), 16, false);
  for (const float value : y) EXPECT_EQ(value, 0.0f);
}

INSTANTIATE_TEST_SUITE_P(Kinds, QuantGemm, testing::Values(Kind::kInt8, Kind::kInt4, Kind::kInt4WithMinimum));

TEST(QuantGemmParts, StackedKindsLieSideBySide) {
  std::mt19937 rng(5);
  const Source a = random_source(Kind::kInt4WithMinimum, 32, 64, rng);
  const Source b = random_source(Kind::kInt8, 16, 64, rng);
  const Source c = random_source(Kind::kInt4, 7, 64, rng);
  QuantizedMatrix matrix(64, make_huge_page_memory());
  for (const Source* part : {&a, &b, &c}) add_to(matrix, *part);
  EXPECT_EQ(matrix.out_features(), 55);
  for (const int m : {1, 6}) {
    const std::vector<float> x = random_rows(m * 64, rng);
    std::vector<float> y(static_cast<std::size_t>(m) * 55);
    QuantWorkspace workspace;
    set_num_kernel_threads(2);
    quant_gemm(x.data(), 64, m, matrix, workspace, y.data(), 55, false);
    set_num_kernel_threads(1);
    for (int r = 0; r < m; ++r) {
      const Quantized q = quantize_plainly(x.data() + r * 64, 64);
      const float* row = y.data() + r * 55;
      for (int o = 0; o < 32; ++o) expect_same(row[o], product(matrix, o, q), 64, "a");
      for (int o = 0; o < 16; ++o) expect_same(row[32 + o], product(matrix, 32 + o, q), 64, "b");
      for (int o = 0; o < 7; ++o) expect_same(row[48 + o], product(matrix, 48 + o, q), 64, "c");
    }
  }
}

}  // namespace
}  // namespace kvcrush::cpu
