// What row-wise kernels share: eight neighbouring elements of a row are a thread's piece, 16 bytes where they
// are 16-bit, a Hadamard matrix turns pieces of neighbouring lanes, and an MLP's gate.
#pragma once

#include <cmath>

#include "engine/core/status.h"
#include "engine/kernels/cuda/elementwise.h"
#include "engine/kernels/cuda/shared_steps.cuh"

namespace kvcrush::cuda {

inline constexpr int kPiece = 8;

// One element, or an aligned piece.
template <class Element, int kWidth>
__device__ __forceinline__ void load_floats(const Element* from, float (&x)[kWidth]) {
  static_assert(kWidth == 1 || kWidth == kPiece);
  if constexpr (kWidth == 1) {
    x[0] = to_float(*from);
  } else if constexpr (sizeof(Element) == sizeof(float)) {
    const float4 low = reinterpret_cast<const float4*>(from)[0];
    const float4 high = reinterpret_cast<const float4*>(from)[1];
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
  } else {
    const uint4 piece = *reinterpret_cast<const uint4*>(from);
    const unsigned words[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[2 * i] = to_float(Element{static_cast<std::uint16_t>(words[i] & 0xffffU)});
      x[2 * i + 1] = to_float(Element{static_cast<std::uint16_t>(words[i] >> 16)});
    }
  }
}

template <class Element, int kWidth>
__device__ __forceinline__ void store_floats(const float (&x)[kWidth], Element* to) {
  static_assert(kWidth == 1 || kWidth == kPiece);
  if constexpr (kWidth == 1) {
    from_float(x[0], *to);
  } else if constexpr (sizeof(Element) == sizeof(float)) {
    reinterpret_cast<float4*>(to)[0] = make_float4(x[0], x[1], x[2], x[3]);
    reinterpret_cast<float4*>(to)[1] = make_float4(x[4], x[5], x[6], x[7]);
  } else {
    unsigned words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Element low;
      Element high;
      from_float(x[2 * i], low);
      from_float(x[2 * i + 1], high);
      words[i] = low.bits | static_cast<unsigned>(high.bits) << 16;
    }
    *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// activation(gate) * up. GELU's 0.5 (1 + tanh(u)) is sigmoid(2 u).
__device__ __forceinline__ float gated(Activation activation, float gate, float up) {
  constexpr float kTwiceSqrt2OverPi = 1.59576912F;
  const float steepness =
      activation == Activation::kSilu ? gate : kTwiceSqrt2OverPi * (gate + 0.044715F * gate * gate * gate);
  return __fdividef(gate, 1.0F + __expf(-steepness)) * up;
}

struct HadamardShape {
  int size;     // of the matrix: 16 to 256
  float scale;  // 1 / sqrt(size)
};
inline HadamardShape hadamard_shape(int head_dim) {
  KVCRUSH_CHECK(head_dim > 0 && head_dim % 16 == 0 && head_dim <= cpu::kMaxHeadDim);
  const int size = head_dim & -head_dim;
  return {size, 1.0F / std::sqrt(static_cast<float>(size))};
}

// Lanes hold pieces in order, a part of the matrix's size beginning at a lane that is a multiple of its
// number of pieces. All lanes of the warp call it.
__device__ __forceinline__ void turn_pieces(const HadamardShape& shape, int lane, float (&x)[kPiece]) {
  turn_lanes(shape.size / kPiece, shape.scale, lane, x);
}

}  // namespace kvcrush::cuda
