// What kernels of attention and of single rows both need.
#pragma once

#include "engine/kernels/cuda/cuda_kernels.h"
#include "engine/kernels/cuda/device.cuh"

namespace kvcrush::cuda {

// Calls function(Activation{}) with the type of `activations`.
template <class Function>
void with_type(ActivationType activations, const Function& function) {
  switch (activations) {
    case ActivationType::kF32:
      return function(float{});
    case ActivationType::kF16:
      return function(F16{});
    case ActivationType::kBF16:
      return function(BF16{});
  }
}

// The orthonormal Hadamard matrix over what num_lanes neighbouring lanes hold, a power of two; each has kOwn
// elements that follow each other. scale: 1 / sqrt(num_lanes kOwn). All lanes of the warp call it.
template <int kOwn>
__device__ __forceinline__ void turn_lanes(int num_lanes, float scale, int lane, float (&x)[kOwn]) {
#pragma unroll
  for (int stride = 1; stride < kOwn; stride *= 2) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if ((i & stride) != 0) continue;
      const float a = x[i];
      const float b = x[i + stride];
      x[i] = a + b;
      x[i + stride] = a - b;
    }
  }
  for (int stride = 1; stride < num_lanes; stride *= 2) {
    const float sign = (lane & stride) != 0 ? -1.0F : 1.0F;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) x[i] = __shfl_xor_sync(kAllLanes, x[i], stride) + sign * x[i];
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) x[i] *= scale;
}

}  // namespace kvcrush::cuda
