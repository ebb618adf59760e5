// Products with few rows against ATen's, in float.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "engine/kernels/cuda/skinny.h"

namespace kvcrush {
namespace {

using cuda::ActivationType;

class CudaSkinnyTest : public ::testing::TestWithParam<ActivationType> {
 protected:
  at::ScalarType type() const { return GetParam() == ActivationType::kF16 ? at::kHalf : at::kBFloat16; }
  at::Tensor random(int rows, int columns, std::uint64_t seed) const {
    return at::randn({rows, columns}, at::make_generator<at::CPUGeneratorImpl>(seed)).to(type());
  }
  // call: float_out or gated.
  void multiply(const at::Tensor& x, const at::Tensor& w, cuda::SkinnyCall call, at::Tensor& out) const {
    call.num_rows = static_cast<int>(x.size(0));
    call.depth = static_cast<int>(x.size(1));
    call.width = static_cast<int>(out.size(1));
    call.type = GetParam();
    call.x = x.const_data_ptr();
    call.w = w.const_data_ptr();
    call.out = out.data_ptr();
    call.num_processors = 1;  // a block takes several tiles
    cuda::skinny_matmul(call, nullptr);
  }
  // Sums are float: what is rounded is the result.
  void expect_close(const at::Tensor& actual, const at::Tensor& expected, double unit) const {
    const at::Tensor apart = (actual.to(at::kFloat) - expected).abs();
    EXPECT_TRUE((apart <= unit * expected.abs() + 1e-4).all().item<bool>()) << apart.max().item<float>();
  }
  double unit() const { return std::ldexp(1.0, GetParam() == ActivationType::kF16 ? -11 : -8); }
};

TEST_P(CudaSkinnyTest, Product) {
  for (const auto& [rows, depth, width] : std::vector<std::array<int, 3>>{
           {1, 32, 16}, {2, 96, 40}, {3, 1056, 7}, {8, 576, 50}, {5, 2048, 129}}) {
    const at::Tensor x = random(rows, depth, 1);
    const at::Tensor w = random(width, depth, 2);
    const at::Tensor expected = at::matmul(x.to(at::kFloat), w.to(at::kFloat).t());
    for (const bool float_out : {false, true}) {
      at::Tensor out = at::full({rows, width}, NAN, float_out ? at::kFloat : type());
      multiply(x, w, {.float_out = float_out}, out);
      expect_close(out, expected, float_out ? 1e-5 : unit());
    }
  }
}

TEST_P(CudaSkinnyTest, GatedProduct) {
  for (const auto& [rows, depth, width] :
       std::vector<std::array<int, 3>>{{1, 64, 8}, {4, 160, 21}, {8, 1152, 33}, {7, 2560, 257}}) {
    const at::Tensor x = random(rows, depth, 3);
    const at::Tensor w = random(2 * width, depth, 4) / std::sqrt(static_cast<double>(depth));
    const at::Tensor both = at::matmul(x.to(at::kFloat), w.to(at::kFloat).t());
    const at::Tensor gate = both.narrow(1, 0, width);
    for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
      const at::Tensor activated = activation == Activation::kSilu ? at::silu(gate) : at::gelu(gate, "tanh");
      at::Tensor out = at::full({rows, width}, NAN, type());
      multiply(x, w, {.gated = true, .activation = activation}, out);
      expect_close(out, activated * both.narrow(1, width, width), unit());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaSkinnyTest,
                         ::testing::Values(ActivationType::kF16, ActivationType::kBF16));

TEST(CudaSkinny, ServesFewRowsOfWholeSteps) {
  EXPECT_TRUE(cuda::skinny_serves(cuda::kSkinnyRows, 576, ActivationType::kF16));
  EXPECT_FALSE(cuda::skinny_serves(cuda::kSkinnyRows + 1, 576, ActivationType::kF16));
  EXPECT_FALSE(cuda::skinny_serves(1, 100, ActivationType::kF16));
  EXPECT_FALSE(cuda::skinny_serves(1, 576, ActivationType::kF32));
}

}  // namespace
}  // namespace kvcrush
