#include "engine/kernels/cuda/elementwise.cuh"
#include "engine/kernels/cuda/launch.h"

namespace kvcrush::cuda {

namespace {

constexpr int kNormThreads = 512;  // at most
constexpr int kThreads = 256;

// Of all threads of a block; one barrier. `shared` [warps] is not used again.
__device__ __forceinline__ float block_sum(float x, float* shared) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const float sum = warp_sum(x);
  if (lane == 0) shared[warp] = sum;
  __syncthreads();
  return warp_sum(lane < static_cast<int>(blockDim.x) / kWarpLanes ? shared[lane] : 0.0F);
}

// One row: where it is read and written.
template <class Activation>
struct NormRow {
  float* hidden;
  const Activation* delta;  // null: none
  Activation* out;

  __device__ explicit NormRow(const RmsNormCall& call) {
    const auto width = static_cast<std::int64_t>(call.width);
    const auto target = static_cast<std::int64_t>(blockIdx.x);
    const std::int64_t source = call.row_ids == nullptr ? target : call.row_ids[target];
    hidden = call.hidden + source * width;
    delta = call.delta == nullptr ? nullptr : static_cast<const Activation*>(call.delta) + source * width;
    out = static_cast<Activation*>(call.out) + target * width;
  }
  // kWidth elements of hidden, the delta added; the new sum is kept.
  template <int kWidth>
  __device__ __forceinline__ void update(int i, float (&x)[kWidth]) const {
    load_floats(hidden + i, x);
    if (delta == nullptr) return;
    float added[kWidth];
    load_floats(delta + i, added);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) x[j] += added[j];
    store_floats(x, hidden + i);
  }
};

__device__ __forceinline__ float norm_scale(float squares, const RmsNormCall& call) {
  return rsqrtf(squares / static_cast<float>(call.width) + call.eps);
}

// A block a row, which stays in registers: kPieces pieces a thread. Weights are asked for before the barrier.
template <class Activation, int kPieces>
__global__ void __launch_bounds__(kNormThreads) rms_norm_kernel(RmsNormCall call) {
  wait_for_earlier_kernels();
  __shared__ float shared[kNormThreads / kWarpLanes];
  const NormRow<Activation> row(call);
  const int first = static_cast<int>(threadIdx.x) * kPiece;
  const int step = static_cast<int>(blockDim.x) * kPiece;
  float x[kPieces][kPiece];
  float weight[kPieces][kPiece];
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = first + p * step;
    if (i >= call.width) continue;
    row.update(i, x[p]);
    load_floats(call.weight + i, weight[p]);
  }
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    if (first + p * step >= call.width) continue;
#pragma unroll
    for (int j = 0; j < kPiece; ++j) squares += x[p][j] * x[p][j];
  }
  const float scale = norm_scale(block_sum(squares, shared), call);
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = first + p * step;
    if (i >= call.width) continue;
#pragma unroll
    for (int j = 0; j < kPiece; ++j) x[p][j] = weight[p][j] * (x[p][j] * scale);
    store_floats(x[p], row.out + i);
  }
}

// Any width: elements one by one, read twice.
template <class Activation>
__global__ void __launch_bounds__(kNormThreads) rms_norm_any_kernel(RmsNormCall call) {
  wait_for_earlier_kernels();
  __shared__ float shared[kNormThreads / kWarpLanes];
  const NormRow<Activation> row(call);
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < call.width; i += kNormThreads) {
    float x[1];
    row.update(i, x);
    squares += x[0] * x[0];
  }
  const float scale = norm_scale(block_sum(squares, shared), call);
  for (int i = static_cast<int>(threadIdx.x); i < call.width; i += kNormThreads)
    from_float(call.weight[i] * (row.hidden[i] * scale), row.out[i]);
}

// Grid of both: rows, parts of a row; a thread per kWidth elements.
template <class Activation, int kWidth>
__global__ void __launch_bounds__(kThreads) silu_mul_kernel(SiluMulCall call) {
  wait_for_earlier_kernels();
  const auto i = static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * kWidth;
  if (i >= call.width) return;
  const auto row = static_cast<std::int64_t>(blockIdx.x);
  const Activation* gates = static_cast<const Activation*>(call.gate_up) + row * 2 * call.width;
  float gate[kWidth];
  float up[kWidth];
  load_floats(gates + i, gate);
  load_floats(gates + call.width + i, up);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) gate[j] = __fdividef(gate[j], 1.0F + __expf(-gate[j])) * up[j];
  store_floats(gate, static_cast<Activation*>(call.out) + row * call.width + i);
}

template <class Activation, int kWidth>
__global__ void __launch_bounds__(kThreads) embed_kernel(EmbeddingCall call) {
  wait_for_earlier_kernels();
  const auto i = static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * kWidth;
  if (i >= call.width) return;
  const auto row = static_cast<std::int64_t>(blockIdx.x);
  const std::int64_t token = call.token_ids[row];
  float x[kWidth];
  load_floats(static_cast<const Activation*>(call.table) + token * call.width + i, x);
  store_floats(x, call.hidden + row * call.width + i);
}

// Parts never cross a warp's border: rows are whole parts, and a warp's 32 pieces are too.
template <class Activation>
__global__ void __launch_bounds__(kThreads)
    hadamard_kernel(Activation* elements, std::int64_t num_pieces, HadamardShape shape) {
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

template <class Activation, int kPieces>
void norm_in_registers(const RmsNormCall& call, Stream stream) {
  const unsigned warps = ceil_div(call.width, kPieces * kPiece * kWarpLanes);
  launch_early<rms_norm_kernel<Activation, kPieces>>(
      LaunchShape{dim3{static_cast<unsigned>(call.num_rows)}, dim3{warps * kWarpLanes}}, stream, call);
}

}  // namespace

void rms_norm(const RmsNormCall& call, Stream stream) {
  if (call.num_rows == 0) return;
  with_type(call.activations, [&](auto type) {
    using Activation = decltype(type);
    constexpr int kRound = kNormThreads * kPiece;  // elements of a piece each
    if (call.width % kPiece != 0 || call.width > 4 * kRound) {
      launch_early<rms_norm_any_kernel<Activation>>(
          LaunchShape{dim3{static_cast<unsigned>(call.num_rows)}, dim3{kNormThreads}}, stream, call);
    } else if (call.width > 2 * kRound) {
      norm_in_registers<Activation, 4>(call, stream);
    } else if (call.width > kRound) {
      norm_in_registers<Activation, 2>(call, stream);
    } else {
      norm_in_registers<Activation, 1>(call, stream);
    }
  });
}

void silu_mul(const SiluMulCall& call, Stream stream) {
  if (call.num_rows == 0) return;
  with_type(call.activations, [&](auto type) {
    using Activation = decltype(type);
    if (call.width % kPiece == 0) {
      launch_early<silu_mul_kernel<Activation, kPiece>>(row_parts(call.num_rows, call.width, kPiece), stream,
                                                        call);
    } else {
      launch_early<silu_mul_kernel<Activation, 1>>(row_parts(call.num_rows, call.width, 1), stream, call);
    }
  });
}

void embed(const EmbeddingCall& call, Stream stream) {
  if (call.num_rows == 0) return;
  with_type(call.activations, [&](auto type) {
    using Activation = decltype(type);
    if (call.width % kPiece == 0) {
      launch_early<embed_kernel<Activation, kPiece>>(row_parts(call.num_rows, call.width, kPiece), stream,
                                                     call);
    } else {
      launch_early<embed_kernel<Activation, 1>>(row_parts(call.num_rows, call.width, 1), stream, call);
    }
  });
}

void hadamard(const HadamardCall& call, Stream stream) {
  const std::int64_t num_pieces =
      static_cast<std::int64_t>(call.num_rows) * call.num_heads * call.head_dim / kPiece;
  if (num_pieces == 0) return;
  const HadamardShape shape = hadamard_shape(call.head_dim);
  with_type(call.activations, [&](auto type) {
    using Activation = decltype(type);
    launch_early<hadamard_kernel<Activation>>(
        LaunchShape{dim3{ceil_div(num_pieces, kThreads)}, dim3{kThreads}}, stream,
        static_cast<Activation*>(call.x), num_pieces, shape);
  });
}

}  // namespace kvcrush::cuda
