// GEMM and row operations against their ATen references, and the promise of batch invariance.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/kernels/kernel_fixture.h"

namespace kvcrush {
namespace {

using testing::max_difference;
using testing::random_tensor;

constexpr double kUnit = 1.0 / (1 << 24);  // float32 unit roundoff

struct GemmShape {
  int m, n, k;
};

class LinearTest : public ::testing::TestWithParam<GemmShape> {};

TEST_P(LinearTest, MatchesReference) {
  cpu::QuantWorkspace workspace;
  const auto [m, n, k] = GetParam();
  const at::Tensor x = random_tensor({m, k}, 1);
  const at::Tensor w = random_tensor({n, k}, 2);
  const at::Tensor before = random_tensor({m, n}, 3);
  const LinearWeight weight = make_linear_weight(w, at::kCPU);
  const at::Tensor exact = at::matmul(x.to(at::kDouble), w.to(at::kDouble).t());
  // k fused multiply-adds in order lose at most k units of sum |x||w|; the addition of `before` one more.
  const at::Tensor bound = at::matmul(x.abs().to(at::kDouble), w.abs().to(at::kDouble).t()) * (k + 2) * kUnit;

  at::Tensor y = at::empty({m, n}, at::kFloat);
  ops::linear(x, weight, workspace, y, false);
  EXPECT_TRUE((y.to(at::kDouble) - exact).abs().le(bound + 1e-12).all().item<bool>());

  at::Tensor sum = before.clone();
  ops::linear(x, weight, workspace, sum, true);
  const at::Tensor slack = bound + before.abs().to(at::kDouble) * kUnit + 1e-6;
  EXPECT_TRUE((sum.to(at::kDouble) - exact - before.to(at::kDouble)).abs().le(slack).all().item<bool>());
}

TEST_P(LinearTest, RowsDoNotDependOnTheBatch) {
  cpu::QuantWorkspace workspace;
  const auto [m, n, k] = GetParam();
  const at::Tensor x = random_tensor({m, k}, 4);
  const LinearWeight weight = make_linear_weight(random_tensor({n, k}, 5), at::kCPU);
  at::Tensor together = at::empty({m, n}, at::kFloat);
  ops::linear(x, weight, workspace, together, false);
  for (int row = 0; row < m; ++row) {
    at::Tensor alone = at::empty({1, n}, at::kFloat);
    ops::linear(x.narrow(0, row, 1), weight, workspace, alone, false);
    ASSERT_EQ(0, std::memcmp(alone.data_ptr(), together[row].data_ptr(), sizeof(float) * n)) << "row " << row;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, LinearTest,
                         ::testing::Values(GemmShape{1, 1, 1}, GemmShape{1, 576, 576}, GemmShape{7, 33, 5},
                                           GemmShape{12, 64, 64}, GemmShape{13, 31, 17},
                                           GemmShape{25, 960, 576}, GemmShape{50, 100, 1536},
                                           GemmShape{2, 129, 3}));

TEST(LinearBiasTest, AddsBias) {
  cpu::QuantWorkspace workspace;
  const at::Tensor x = random_tensor({3, 8}, 1);
  const at::Tensor w = random_tensor({5, 8}, 2);
  LinearWeight weight = make_linear_weight(w, at::kCPU);
  weight.bias = random_tensor({5}, 3);
  at::Tensor y = at::empty({3, 5}, at::kFloat);
  at::Tensor expected = at::empty({3, 5}, at::kFloat);
  ops::linear(x, weight, workspace, y, false);
  reference::linear(x, w, weight.bias, expected, false);
  EXPECT_LT(max_difference(y, expected), 1e-5);
  ops::linear(x, weight, workspace, y, true);
  reference::linear(x, w, weight.bias, expected, true);
  EXPECT_LT(max_difference(y, expected), 2e-5);
}

class RowTest : public ::testing::TestWithParam<int> {};

TEST_P(RowTest, RmsNormMatchesReference) {
  const int n = GetParam();
  const at::Tensor x = random_tensor({5, n}, 1) * 3;
  const at::Tensor weight = random_tensor({n}, 2);
  at::Tensor y = at::empty({5, n}, at::kFloat);
  at::Tensor expected = at::empty({5, n}, at::kFloat);
  ops::rms_norm(x, weight, 1e-5F, y);
  reference::rms_norm(x, weight, 1e-5F, expected);
  // Relative: the sum of squares is good to n units, its root to half of that, three more operations.
  const at::Tensor bound = expected.abs() * ((n / 2 + 4) * kUnit) + 1e-12;
  EXPECT_TRUE((y - expected).abs().le(bound).all().item<bool>()) << max_difference(y, expected);
}

TEST_P(RowTest, RmsNormAddMatchesReference) {
  const int n = GetParam();
  const at::Tensor x = random_tensor({5, n}, 1) * 3;
  const at::Tensor weight = random_tensor({n}, 2);
  at::Tensor y = random_tensor({5, n}, 3);
  at::Tensor expected = y.clone();
  const at::Tensor before = y.clone();
  ops::rms_norm_add(x, weight, 1e-5F, y);
  reference::rms_norm_add(x, weight, 1e-5F, expected);
  const at::Tensor bound = ((expected - before).abs() + before.abs()) * ((n / 2 + 6) * kUnit) + 1e-12;
  EXPECT_TRUE((y - expected).abs().le(bound).all().item<bool>()) << max_difference(y, expected);
}

TEST_P(RowTest, GeluMulMatchesReference) {
  const int n = GetParam();
  const at::Tensor gate_up = random_tensor({4, 2 * n}, 3) * 4;
  at::Tensor y = at::empty({4, n}, at::kFloat);
  at::Tensor expected = at::empty({4, n}, at::kFloat);
  ops::gated_mul(gate_up, Activation::kGeluTanh, y);
  reference::gated_mul(gate_up.to(at::kDouble), Activation::kGeluTanh, expected);
  // In the left tail the sigmoid's argument g (1 + 0.045 g^2) sqrt(8 / pi) reaches 88, and a unit of it is
  // the result's relative error; there the reference's own 1 + tanh is good to double's last bit only.
  const at::Tensor bound = expected.abs() * (100 * 4 * kUnit) + 20 * 2.3e-16 * gate_up.narrow(1, n, n).abs();
  EXPECT_TRUE((y - expected).abs().le(bound).all().item<bool>()) << max_difference(y, expected);
}

TEST(HeadNormsTest, NormaliseQueriesAndKeysAlone) {
  const HeadLayout heads{.num_heads = 6, .num_kv_heads = 2, .head_dim = 32};
  at::Tensor qkv = random_tensor({70, heads.qkv_width()}, 1) * 3;
  const at::Tensor before = qkv.clone();
  at::Tensor expected = qkv.clone();
  const at::Tensor q_weight = random_tensor({32}, 2);
  const at::Tensor k_weight = random_tensor({32}, 3);
  ops::head_norms(qkv, heads, q_weight, k_weight, 1e-6F);
  reference::head_norms(expected, heads, q_weight, k_weight, 1e-6F);
  EXPECT_LT(max_difference(qkv, expected), 20 * 4 * kUnit * 5);
  const at::Tensor head = before[3].narrow(0, 6 * 32, 32);  // the first key
  const at::Tensor by_hand = head / at::sqrt(head.pow(2).mean() + 1e-6) * k_weight;
  EXPECT_LT(max_difference(qkv[3].narrow(0, 6 * 32, 32), by_hand), 1e-5);
  EXPECT_TRUE(at::equal(qkv.narrow(1, 8 * 32, 2 * 32), before.narrow(1, 8 * 32, 2 * 32)));
}

TEST_P(RowTest, SiluMulMatchesReference) {
  const int n = GetParam();
  const at::Tensor gate_up = random_tensor({4, 2 * n}, 3) * 20;  // far into both tails of the sigmoid
  at::Tensor y = at::empty({4, n}, at::kFloat);
  at::Tensor expected = at::empty({4, n}, at::kFloat);
  ops::gated_mul(gate_up, Activation::kSilu, y);
  reference::gated_mul(gate_up, Activation::kSilu, expected);
  EXPECT_TRUE((y - expected).abs().le(expected.abs() * 1e-6 + 1e-30).all().item<bool>())
      << max_difference(y, expected);
}

INSTANTIATE_TEST_SUITE_P(Widths, RowTest, ::testing::Values(1, 5, 16, 31, 576, 1536));

class HadamardTest : public ::testing::TestWithParam<int> {};

TEST_P(HadamardTest, MatchesReferenceAndUndoesItself) {
  const int head_dim = GetParam();
  const at::Tensor x = random_tensor({3, 5 * head_dim}, 4);
  at::Tensor y = x.clone();
  at::Tensor expected = x.clone();
  ops::hadamard(y, head_dim);
  reference::hadamard(expected, head_dim);
  const double bound = head_dim * 2 * kUnit * 5;  // sums of head_dim terms of at most 5
  EXPECT_LT(max_difference(y, expected), bound);
  EXPECT_GT(max_difference(y, x), 0.1);
  ops::hadamard(y, head_dim);
  EXPECT_LT(max_difference(y, x), bound);
}
INSTANTIATE_TEST_SUITE_P(HeadDims, HadamardTest, ::testing::Values(16, 32, 48, 64, 80, 96, 128, 256));

TEST(RopeTest, MatchesReference) {
  const HeadLayout heads{.num_heads = 6, .num_kv_heads = 2, .head_dim = 32};
  at::Tensor qkv = random_tensor({9, heads.qkv_width()}, 1);
  at::Tensor expected = qkv.clone();
  const at::Tensor table = random_tensor({100, 32}, 2);
  const std::vector<std::int32_t> positions = {0, 1, 2, 50, 51, 99, 7, 7, 3};
  ops::rope(qkv, heads, positions, table);
  reference::rope(expected, heads, positions, table);
  EXPECT_LT(max_difference(qkv, expected), 2e-6);
}

}  // namespace
}  // namespace kvcrush
