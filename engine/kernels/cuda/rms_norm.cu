#include "engine/core/status.h"
#include "engine/kernels/cuda/elementwise.cuh"
#include "engine/kernels/cuda/launch.h"

namespace kvcrush::cuda {

namespace {

constexpr int kNormThreads = 512;  // at most

// Of all threads of a block; one barrier. `shared` [warps] is not used again.
__device__ __forceinline__ float block_sum(float x, float* shared) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const float sum = warp_sum(x);
  if (lane == 0) shared[warp] = sum;
  __syncthreads();
  return warp_sum(lane < static_cast<int>(blockDim.x) / kWarpLanes ? shared[lane] : 0.0F);
}

__device__ __forceinline__ float norm_scale(float squares, const RmsNormCall& call) {
  return rsqrtf(squares / static_cast<float>(call.width) + call.eps);
}
template <int kWidth>
__device__ __forceinline__ float sum_of_squares(const float (&x)[kWidth]) {
  float squares = 0;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) squares += x[j] * x[j];
  return squares;
}

template <int kWidth>
__device__ __forceinline__ void scale_by(const float (&weight)[kWidth], float (&x)[kWidth]) {
#pragma unroll
  for (int j = 0; j < kWidth; ++j) x[j] *= weight[j];
}

// How a row's delta comes to it.
enum class Delta { kAsIs, kFinished };  // kFinished: through its bias, its own norm or both

// One row: where it is read and written.
template <class Element, Delta kDelta>
struct NormRow {
  const RmsNormCall& call;
  float* hidden;
  const Element* delta;  // null: none
  Element* out;

  __device__ explicit NormRow(const RmsNormCall& norm) : call(norm) {
    const auto width = static_cast<std::int64_t>(call.width);
    const auto target = static_cast<std::int64_t>(blockIdx.x);
    const std::int64_t source = call.row_ids == nullptr ? target : call.row_ids[target];
    hidden = call.hidden + source * width;
    delta = call.delta == nullptr ? nullptr : static_cast<const Element*>(call.delta) + source * width;
    out = static_cast<Element*>(call.out) + target * width;
  }
  // kWidth elements of the delta, with its bias.
  template <int kWidth>
  __device__ __forceinline__ void load_delta(int i, float (&added)[kWidth]) const {
    load_floats(delta + i, added);
    if constexpr (kDelta == Delta::kFinished) {
      if (call.delta_bias == nullptr) return;
      float bias[kWidth];
      load_floats(call.delta_bias + i, bias);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) added[j] += bias[j];
    }
  }
  // Of the delta's own norm.
  template <int kWidth>
  __device__ __forceinline__ void load_delta_weight(int i, float (&weight)[kWidth]) const {
    if (call.delta_weight != nullptr) return load_floats(call.delta_weight + i, weight);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) weight[j] = 1;
  }
  // x += scale * added, kept in hidden.
  template <int kWidth>
  __device__ __forceinline__ void keep_sum(int i, float scale, const float (&added)[kWidth],
                                           float (&x)[kWidth]) const {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) x[j] += kDelta == Delta::kAsIs ? added[j] : scale * added[j];
    store_floats(x, hidden + i);
  }
};

// A block a row, which stays in registers: kPieces pieces a thread. Weights are asked for before the barrier
// whose sum they wait for.
template <class Element, Delta kDelta, int kPieces>
__global__ void __launch_bounds__(kNormThreads) rms_norm_kernel(RmsNormCall call) {
  wait_for_earlier_kernels();
  __shared__ float shared[2][kNormThreads / kWarpLanes];
  const NormRow<Element, kDelta> row(call);
  const int first = static_cast<int>(threadIdx.x) * kPiece;
  const int step = static_cast<int>(blockDim.x) * kPiece;
  const auto for_pieces = [&](const auto& body) {
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const int i = first + p * step;
      if (i < call.width) body(p, i);
    }
  };
  float x[kPieces][kPiece];
  float weight[kPieces][kPiece];
  if constexpr (kDelta == Delta::kAsIs) {
    for_pieces([&](int p, int i) {
      load_floats(row.hidden + i, x[p]);
      if (row.delta != nullptr) {
        float added[kPiece];
        row.load_delta(i, added);
        row.keep_sum(i, 1.0F, added, x[p]);
      }
      load_floats(call.weight + i, weight[p]);
    });
  } else {
    float added[kPieces][kPiece];
    float squares = 0;
    for_pieces([&](int p, int i) {
      row.load_delta(i, added[p]);
      row.load_delta_weight(i, weight[p]);
      load_floats(row.hidden + i, x[p]);
    });
    for_pieces([&](int p, int i) {
      squares += sum_of_squares(added[p]);
      scale_by(weight[p], added[p]);
      load_floats(call.weight + i, weight[p]);
    });
    const float scale = call.delta_weight == nullptr ? 1.0F : norm_scale(block_sum(squares, shared[1]), call);
    for_pieces([&](int p, int i) { row.keep_sum(i, scale, added[p], x[p]); });
  }
  float squares = 0;
  for_pieces([&](int p, int) { squares += sum_of_squares(x[p]); });
  const float scale = norm_scale(block_sum(squares, shared[0]), call);
  for_pieces([&](int p, int i) {
#pragma unroll
    for (int j = 0; j < kPiece; ++j) x[p][j] = weight[p][j] * (x[p][j] * scale);
    store_floats(x[p], row.out + i);
  });
}

// Any width: elements one by one, read again after each sum.
template <class Element, Delta kDelta>
__global__ void __launch_bounds__(kNormThreads) rms_norm_any_kernel(RmsNormCall call) {
  wait_for_earlier_kernels();
  __shared__ float shared[2][kNormThreads / kWarpLanes];
  const NormRow<Element, kDelta> row(call);
  const auto for_elements = [&](const auto& body) {
    for (int i = static_cast<int>(threadIdx.x); i < call.width; i += kNormThreads) body(i);
  };
  float delta_scale = 1;
  if (kDelta == Delta::kFinished && call.delta_weight != nullptr) {
    float squares = 0;
    for_elements([&](int i) {
      float added[1];
      row.load_delta(i, added);
      squares += sum_of_squares(added);
    });
    delta_scale = norm_scale(block_sum(squares, shared[1]), call);
  }
  float squares = 0;
  for_elements([&](int i) {
    float x[1] = {row.hidden[i]};
    if (row.delta != nullptr) {
      float added[1];
      row.load_delta(i, added);
      if constexpr (kDelta == Delta::kFinished) {
        float weight[1];
        row.load_delta_weight(i, weight);
        scale_by(weight, added);
      }
      row.keep_sum(i, delta_scale, added, x);
    }
    squares += sum_of_squares(x);
  });
  const float scale = norm_scale(block_sum(squares, shared[0]), call);
  for_elements([&](int i) { from_float(call.weight[i] * (row.hidden[i] * scale), row.out[i]); });
}

template <class Element, Delta kDelta, int kPieces>
void norm_in_registers(const RmsNormCall& call, Stream stream) {
  const auto warps = static_cast<unsigned>(cpu::ceil_div(call.width, kPieces * kPiece * kWarpLanes));
  launch_early<rms_norm_kernel<Element, kDelta, kPieces>>(
      LaunchShape{dim3{static_cast<unsigned>(call.num_rows)}, dim3{warps * kWarpLanes}}, stream, call);
}

template <class Element, Delta kDelta>
void norm_any_width(const RmsNormCall& call, Stream stream) {
  constexpr int kRound = kNormThreads * kPiece;  // elements of a piece each
  if (call.width % kPiece != 0 || call.width > 4 * kRound) {
    launch_early<rms_norm_any_kernel<Element, kDelta>>(
        LaunchShape{dim3{static_cast<unsigned>(call.num_rows)}, dim3{kNormThreads}}, stream, call);
  } else if (call.width > 2 * kRound) {
    norm_in_registers<Element, kDelta, 4>(call, stream);
  } else if (call.width > kRound) {
    norm_in_registers<Element, kDelta, 2>(call, stream);
  } else {
    norm_in_registers<Element, kDelta, 1>(call, stream);
  }
}

}  // namespace

void rms_norm(const RmsNormCall& call, Stream stream) {
  if (call.num_rows == 0) return;
  const bool finished = call.delta_bias != nullptr || call.delta_weight != nullptr;
  KVCRUSH_CHECK(call.delta != nullptr || !finished);
  with_type(call.activations, [&](auto type) {
    using Element = decltype(type);
    finished ? norm_any_width<Element, Delta::kFinished>(call, stream)
             : norm_any_width<Element, Delta::kAsIs>(call, stream);
  });
}

}  // namespace kvcrush::cuda
