// Row-wise kernels of a decoder layer. T: tokens of the batch. Activations are of one ActivationType; the
// residual stream `hidden`, norm weights, biases and the RoPE table are float32, and so is all arithmetic.
// Addresses are multiples of 16 bytes. Nothing here allocates or waits; no work (no rows) is no launch.
#pragma once

#include <cstdint>

#include "engine/core/types.h"
#include "engine/kernels/cuda/cuda_kernels.h"

namespace kvcrush::cuda {

// out = norm(x, weight) = weight * x / sqrt(mean(x^2) + eps) for rows x of `hidden`. With a delta, before
// that and in place: x += delta + delta_bias, or x += norm(delta + delta_bias, delta_weight).
struct RmsNormCall {
  int num_rows = 0;  // of out
  int width = 0;     // n; fast for multiples of 8 up to 16384
  float eps = 0;
  ActivationType activations = ActivationType::kF16;
  float* hidden = nullptr;                // [T, n]
  const void* delta = nullptr;            // activations [T, n], a projection's result; null: none
  const float* delta_bias = nullptr;      // [n]; null: none
  const float* delta_weight = nullptr;    // [n], of delta's own norm; null: none
  const float* weight = nullptr;          // [n]
  const std::int32_t* row_ids = nullptr;  // [num_rows], of hidden and delta, no row twice; null: all in turn
  void* out = nullptr;                    // activations [num_rows, n]
};
void rms_norm(const RmsNormCall& call, Stream stream);

// out = activation(gate) * up.
struct GatedMulCall {
  int num_rows = 0;  // T
  int width = 0;     // n; fast for multiples of 8
  Activation activation = Activation::kSilu;
  ActivationType activations = ActivationType::kF16;
  const void* gate_up = nullptr;  // activations [T, 2 n]
  void* out = nullptr;            // activations [T, n]
};
void gated_mul(const GatedMulCall& call, Stream stream);

// hidden = scale * rows of the embedding table, in float32.
struct EmbeddingCall {
  int num_rows = 0;  // T
  int width = 0;     // n; fast for multiples of 8
  ActivationType activations = ActivationType::kF16;
  const void* table = nullptr;              // activations [vocabulary, n]
  const std::int32_t* token_ids = nullptr;  // [T]
  float scale = 1;
  float* hidden = nullptr;  // [T, n]
};
void embed(const EmbeddingCall& call, Stream stream);

// Each head in place times the orthonormal Hadamard matrix of the largest power of two that divides head_dim,
// part by part.
struct HadamardCall {
  int num_rows = 0;  // T
  int num_heads = 0;
  int head_dim = 0;  // multiple of 16, at most 256
  ActivationType activations = ActivationType::kF16;
  void* x = nullptr;  // activations [T, num_heads head_dim]
};
void hadamard(const HadamardCall& call, Stream stream);

// From a projection's result to what attention reads: bias, RMS norm of each query and key head, RoPE of
// those, the Hadamard matrix on all heads. Queries stay in qkv; K and V go to the sequences' last num_queries
// slots, in their tail's dtype, and are left in qkv as they came.
struct RopeAppendCall {
  int num_tokens = 0;  // T
  int num_heads = 0;   // query heads Hq
  cpu::KvPool pool;    // Hkv and D: any multiple of 16 up to 256
  ActivationType activations = ActivationType::kF16;
  void* qkv = nullptr;                                // activations [T, (Hq + 2 Hkv) D]
  const cpu::AttentionSequence* sequences = nullptr;  // [batch], of one layer
  const std::int32_t* sequence_of_token = nullptr;    // [T]; -1: nobody's, left alone
  const std::int32_t* positions = nullptr;            // [T]
  const float* cos_sin = nullptr;                     // [max_positions, D]: cosines, then sines
  const float* bias = nullptr;                        // [(Hq + 2 Hkv) D]; null: none
  const float* q_norm = nullptr;                      // [D]; null: none
  const float* k_norm = nullptr;                      // [D]; null: none
  float norm_eps = 0;
};
void rope_append(const RopeAppendCall& call, Stream stream);

}  // namespace kvcrush::cuda
