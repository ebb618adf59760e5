// Matrix products with few rows, where all the time goes into reading the weights: decode steps of a few
// sequences.
#pragma once

#include "engine/core/types.h"
#include "engine/kernels/cuda/cuda_kernels.h"

namespace kvcrush::cuda {

inline constexpr int kSkinnyRows = 8;  // at most

// out = x w^T. Weights and x are float16 or bfloat16, sums are float32.
struct SkinnyCall {
  int num_rows = 0;                             // T <= kSkinnyRows
  int depth = 0;                                // k, a multiple of 32
  int width = 0;                                // n
  ActivationType type = ActivationType::kBF16;  // of x, w and out
  const void* x = nullptr;                      // [T, k], rows and addresses multiples of 16 bytes
  const void* w = nullptr;                      // [n, k]; gated: [2 n, k], gates first
  void* out = nullptr;                          // [T, n]
  int num_processors = 1;                       // of the GPU
  bool float_out = false;                       // out is float32
  bool gated = false;                           // out = activation(x gate^T) * (x up^T)
  Activation activation = Activation::kSilu;    // of gates
};
// On the current device; one without the shared memory of an A100 is not served.
bool skinny_serves(int num_rows, int depth, ActivationType type);
void skinny_matmul(const SkinnyCall& call, Stream stream);

}  // namespace kvcrush::cuda
