// What tests of the GPU's row-wise kernels share: types, sizes, and how close a result must come.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "engine/kernels/cuda/elementwise.h"
#include "tests/kernels/kernel_fixture.h"

namespace kvcrush::testing {

inline constexpr cuda::ActivationType kActivationTypes[] = {
    cuda::ActivationType::kF32, cuda::ActivationType::kF16, cuda::ActivationType::kBF16};
inline constexpr int kHeadDims[] = {16, 32, 48, 64, 80, 96, 112, 128, 192, 240, 256};

inline at::ScalarType scalar_type(cuda::ActivationType activations) {
  if (activations == cuda::ActivationType::kF32) return at::kFloat;
  return activations == cuda::ActivationType::kF16 ? at::kHalf : at::kBFloat16;
}

// One unit in the last place, relative to the value; of float32 a few, for sums in another order.
inline double unit_of(at::ScalarType type) {
  return type == at::kFloat ? std::ldexp(1.0, -20) : std::ldexp(1.0, type == at::kHalf ? -10 : -7);
}

// Both round float32 results, which differ by rounding alone: at most one unit of `actual`'s dtype, and where
// sums cancel, 2^-24 of terms of up to 16 in eight stages. NaN equals NaN.
inline void expect_close(const at::Tensor& actual, const at::Tensor& expected, const std::string& what) {
  ASSERT_EQ(actual.sizes(), expected.sizes());
  EXPECT_TRUE(at::allclose(actual.to(at::kFloat), expected.to(at::kFloat), unit_of(actual.scalar_type()),
                           std::ldexp(1.0, -17), /*equal_nan=*/true))
      << what << ": " << max_difference(actual.nan_to_num(), expected.nan_to_num());
}

inline const float* floats_or_null(const at::Tensor& values) {
  return values.defined() ? values.const_data_ptr<float>() : nullptr;
}

}  // namespace kvcrush::testing
