#include "engine/kernels/cuda/elementwise.cuh"
#include "engine/kernels/cuda/launch.h"

namespace kvcrush::cuda {

namespace {

constexpr int kThreads = 256;

// Grid of both: rows, parts of a row; a thread per kWidth elements.
template <class Element, int kWidth>
__global__ void __launch_bounds__(kThreads) gated_mul_kernel(GatedMulCall call) {
  wait_for_earlier_kernels();
  const auto i = static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * kWidth;
  if (i >= call.width) return;
  const auto row = static_cast<std::int64_t>(blockIdx.x);
  const Element* gates = static_cast<const Element*>(call.gate_up) + row * 2 * call.width;
  float gate[kWidth];
  float up[kWidth];
  load_floats(gates + i, gate);
  load_floats(gates + call.width + i, up);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) gate[j] = gated(call.activation, gate[j], up[j]);
  store_floats(gate, static_cast<Element*>(call.out) + row * call.width + i);
}

template <class Element, int kWidth>
__global__ void __launch_bounds__(kThreads) embed_kernel(EmbeddingCall call) {
  wait_for_earlier_kernels();
  const auto i = static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * kWidth;
  if (i >= call.width) return;
  const auto row = static_cast<std::int64_t>(blockIdx.x);
  const std::int64_t token = call.token_ids[row];
  float x[kWidth];
  load_floats(static_cast<const Element*>(call.table) + token * call.width + i, x);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) x[j] *= call.scale;
  store_floats(x, call.hidden + row * call.width + i);
}

// Parts never cross a warp's border: rows are whole parts, and a warp's 32 pieces are too.
template <class Element>
__global__ void __launch_bounds__(kThreads)
    hadamard_kernel(Element* elements, std::int64_t num_pieces, HadamardShape shape) {
  wait_for_earlier_kernels();
  const std::int64_t piece = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  float x[kPiece] = {};
  if (piece < num_pieces) load_floats(elements + piece * kPiece, x);
  turn_pieces(shape, static_cast<int>(threadIdx.x) % kWarpLanes, x);
  if (piece < num_pieces) store_floats(x, elements + piece * kPiece);
}

unsigned ceil_div(std::int64_t a, std::int64_t b) {
  return static_cast<unsigned>((a + b - 1) / b);
}

LaunchShape row_parts(int num_rows, int width, int elements_per_thread) {
  return {dim3{static_cast<unsigned>(num_rows), ceil_div(width, kThreads * elements_per_thread)},
          dim3{kThreads}};
}

}  // namespace

void gated_mul(const GatedMulCall& call, Stream stream) {
  if (call.num_rows == 0) return;
  with_type(call.activations, [&](auto type) {
    using Element = decltype(type);
    if (call.width % kPiece == 0) {
      launch_early<gated_mul_kernel<Element, kPiece>>(row_parts(call.num_rows, call.width, kPiece), stream,
                                                      call);
    } else {
      launch_early<gated_mul_kernel<Element, 1>>(row_parts(call.num_rows, call.width, 1), stream, call);
    }
  });
}

void embed(const EmbeddingCall& call, Stream stream) {
  if (call.num_rows == 0) return;
  with_type(call.activations, [&](auto type) {
    using Element = decltype(type);
    if (call.width % kPiece == 0) {
      launch_early<embed_kernel<Element, kPiece>>(row_parts(call.num_rows, call.width, kPiece), stream, call);
    } else {
      launch_early<embed_kernel<Element, 1>>(row_parts(call.num_rows, call.width, 1), stream, call);
    }
  });
}

void hadamard(const HadamardCall& call, Stream stream) {
  const std::int64_t num_pieces =
      static_cast<std::int64_t>(call.num_rows) * call.num_heads * call.head_dim / kPiece;
  if (num_pieces == 0) return;
  const HadamardShape shape = hadamard_shape(call.head_dim);
  with_type(call.activations, [&](auto type) {
    using Element = decltype(type);
    launch_early<hadamard_kernel<Element>>(LaunchShape{dim3{ceil_div(num_pieces, kThreads)}, dim3{kThreads}},
                                           stream, static_cast<Element*>(call.x), num_pieces, shape);
  });
}

}  // namespace kvcrush::cuda
