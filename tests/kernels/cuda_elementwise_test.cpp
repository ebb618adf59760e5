// The GPU's row-wise kernels, run by the simulator, against the ATen reference.
#include "engine/kernels/cuda/elementwise.h"

#include "tests/kernels/cuda_row_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)
using cuda::ActivationType;

class CudaActivationTest : public ::testing::TestWithParam<ActivationType> {
 protected:
  at::ScalarType type() const { return scalar_type(GetParam()); }
};

// A residual stream, what is added to it, and the norm that follows.
struct NormCase {
  int width = 0;
  int num_rows = 4;
  bool chosen_rows = false;
  bool delta = true;
  bool bias = false;      // of delta
  bool own_norm = false;  // of delta
};

void expect_norm(const NormCase& norm, ActivationType activations) {
  const auto vector = [&](bool there, std::uint64_t seed) {
    return there ? random_tensor({norm.width}, seed) : at::Tensor();
  };
  constexpr float kEps = 1e-5F;
  at::Tensor hidden = random_tensor({norm.num_rows, norm.width}, 3) * 4;
  const at::Tensor delta = random_tensor({norm.num_rows, norm.width}, 4).to(scalar_type(activations));
  const at::Tensor weight = vector(true, 5);
  const at::Tensor bias = vector(norm.bias, 6);
  const at::Tensor own_weight = vector(norm.own_norm, 7);
  const at::Tensor ids =
      norm.chosen_rows ? at::tensor({norm.num_rows - 1, 0}, at::kInt) : at::arange(norm.num_rows, at::kInt);
  at::Tensor added = delta.to(at::kFloat, false, /*copy=*/true);
  if (norm.bias) added.add_(bias);
  if (norm.own_norm) reference::rms_norm(added, own_weight, kEps, added);
  const at::Tensor sums = (norm.delta ? hidden + added : hidden).index_select(0, ids);
  const at::Tensor all = hidden.index_copy(0, ids.to(at::kLong), sums);  // others are not touched
  at::Tensor expected = at::empty_like(sums);
  reference::rms_norm(sums, weight, kEps, expected);
  at::Tensor out = at::full(sums.sizes(), NAN, scalar_type(activations));
  cuda::rms_norm({.num_rows = static_cast<int>(ids.numel()),
                  .width = norm.width,
                  .eps = kEps,
                  .activations = activations,
                  .hidden = hidden.data_ptr<float>(),
                  .delta = norm.delta ? delta.const_data_ptr() : nullptr,
                  .delta_bias = floats_or_null(bias),
                  .delta_weight = floats_or_null(own_weight),
                  .weight = weight.const_data_ptr<float>(),
                  .row_ids = norm.chosen_rows ? ids.const_data_ptr<std::int32_t>() : nullptr,
                  .out = out.data_ptr()},
                 nullptr);
  const std::string what = "width " + std::to_string(norm.width);
  if (norm.own_norm) {
    expect_close(hidden, all, what);
  } else {
    EXPECT_TRUE(at::equal(hidden, all)) << what;
  }
  expect_close(out, expected, what);
}

constexpr int kNormWidths[] = {1, 8, 100, 1152, 2048, 4096, 4104, 8200, 16384, 16392, 4099};

TEST_P(CudaActivationTest, RmsNormAddsAndNormalises) {
  for (const int width : kNormWidths) {
    for (const bool chosen_rows : {false, true}) {
      for (const bool delta : {false, true})
        expect_norm({.width = width, .chosen_rows = chosen_rows, .delta = delta}, GetParam());
    }
  }
}

TEST_P(CudaActivationTest, RmsNormOfWhatIsAdded) {
  for (const int width : kNormWidths) {
    for (const bool chosen_rows : {false, true}) {
      for (const auto& [bias, own_norm] : {std::pair{true, false}, {false, true}, {true, true}})
        expect_norm({.width = width, .chosen_rows = chosen_rows, .bias = bias, .own_norm = own_norm},
                    GetParam());
    }
  }
}

TEST_P(CudaActivationTest, RmsNormOfManyRows) {
  for (const int width : {72, 51}) {
    for (const bool own_norm : {false, true})
      expect_norm({.width = width, .num_rows = 300, .bias = own_norm, .own_norm = own_norm}, GetParam());
  }
}

TEST_P(CudaActivationTest, GatedMul) {
  for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    for (const auto& [rows, width] :
         {std::pair{3, 1}, {3, 8}, {3, 13}, {3, 300}, {200, 24}, {3, 2056}, {3, 4104}}) {
      at::Tensor gate_up = random_tensor({rows, 2 * width}, 8) * 3;
      gate_up.select(1, 0).slice(0, 0, 3).copy_(
          at::tensor({-200.0F, 200.0F, 0.0F}));  // exp() overflows, or vanishes
      gate_up = gate_up.to(type());
      at::Tensor expected = at::empty({rows, width}, at::kFloat);
      reference::gated_mul(gate_up.to(at::kFloat), activation, expected);
      at::Tensor out = at::full({rows, width}, NAN, type());
      cuda::gated_mul({.num_rows = rows,
                       .width = width,
                       .activation = activation,
                       .activations = GetParam(),
                       .gate_up = gate_up.const_data_ptr(),
                       .out = out.data_ptr()},
                      nullptr);
      expect_close(out, expected, "width " + std::to_string(width));
    }
  }
}

TEST_P(CudaActivationTest, EmbeddingRows) {
  for (const int width : {8, 51, 2080}) {
    for (const float scale : {1.0F, std::sqrt(1152.0F)}) {
      const at::Tensor table = random_tensor({11, width}, 9).to(type());
      const at::Tensor ids = at::tensor({10, 0, 3, 3}, at::kInt);
      at::Tensor hidden = at::full({4, width}, NAN, at::kFloat);
      cuda::embed({.num_rows = 4,
                   .width = width,
                   .activations = GetParam(),
                   .table = table.const_data_ptr(),
                   .token_ids = ids.const_data_ptr<std::int32_t>(),
                   .scale = scale,
                   .hidden = hidden.data_ptr<float>()},
                  nullptr);
      EXPECT_TRUE(at::equal(hidden, table.index_select(0, ids.to(at::kLong)).to(at::kFloat) * scale));
    }
  }
}

TEST_P(CudaActivationTest, Hadamard) {
  for (const int head_dim : kHeadDims) {
    at::Tensor x = random_tensor({5, 3 * head_dim}, 10).to(type());
    at::Tensor expected = x.to(at::kFloat, false, /*copy=*/true);
    reference::hadamard(expected, head_dim);
    cuda::hadamard(
        {.num_rows = 5, .num_heads = 3, .head_dim = head_dim, .activations = GetParam(), .x = x.data_ptr()},
        nullptr);
    expect_close(x, expected, "head_dim " + std::to_string(head_dim));
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaActivationTest, ::testing::ValuesIn(kActivationTypes));

TEST(CudaElementwise, NoRowsAreNoLaunch) {  // which the simulator would refuse
  cuda::rms_norm({}, nullptr);
  cuda::gated_mul({}, nullptr);
  cuda::embed({}, nullptr);
  cuda::hadamard({}, nullptr);
  cuda::rope_append({}, nullptr);
}

}  // namespace
}  // namespace kvcrush
