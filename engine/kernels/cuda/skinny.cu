#include "engine/kernels/cuda/skinny.h"

#include "engine/core/status.h"
#include "engine/kernels/cuda/elementwise.cuh"
#include "engine/kernels/cuda/launch.h"

namespace kvcrush::cuda {

namespace {

constexpr int kWarps = 8;      // of a block; they share its rows of w and take parts of the depth in turn
constexpr int kTileRows = 16;  // of w; gated: half of them gates, half what they let through
constexpr int kGroup = 32;     // of the depth: two steps of a tensor core
constexpr int kGroups = 4;     // of a turn: 256 neighbouring bytes of each row

__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, F16) {
  mma_f16(c, a, b0, b1);
}
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, BF16) {
  mma_bf16(c, a, b0, b1);
}

// Lane (r, q) reads 16 bytes of rows r and r + 8: of eight neighbouring elements of the depth the first four
// are its part of one step, the rest of the next. x is read in the same order, and order is all that differs
// from a plain product.
template <class Element, bool kGated>
struct SkinnyTile {
  const uint4* low;   // of w, row r
  const uint4* high;  // row r + 8
  const uint4* x;     // row r of x; null: none

  __device__ __forceinline__ SkinnyTile(const SkinnyCall& call, int lane) {
    constexpr int kOwn = kGated ? kTileRows / 2 : kTileRows;
    const int r = lane / 4;
    const int first = static_cast<int>(blockIdx.x) * kOwn + r;
    const int last = call.width - 1;  // rows past it are read again and not kept
    const int second = kGated             ? call.width + (first < last ? first : last)
                       : first + 8 < last ? first + 8
                                          : last;
    const auto row = [&](const void* matrix, int index) {
      return reinterpret_cast<const uint4*>(static_cast<const Element*>(matrix) +
                                            static_cast<std::int64_t>(index) * call.depth) +
             lane % 4;
    };
    low = row(call.w, first < last ? first : last);
    high = row(call.w, second);
    x = r < call.num_rows ? row(call.x, r) : nullptr;
  }
  __device__ __forceinline__ void add(int groups, int group, float (&sums)[4]) const {
    uint4 a[kGroups][2];
    uint4 b[kGroups];
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const bool there = group + i < groups;
      const uint4 zero = make_uint4(0, 0, 0, 0);
      a[i][0] = there ? load_once(low + (group + i) * 4) : zero;
      a[i][1] = there ? load_once(high + (group + i) * 4) : zero;
      b[i] = there && x != nullptr ? x[(group + i) * 4] : zero;
    }
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const unsigned first[4] = {a[i][0].x, a[i][1].x, a[i][0].y, a[i][1].y};
      const unsigned second[4] = {a[i][0].z, a[i][1].z, a[i][0].w, a[i][1].w};
      mma(sums, first, b[i].x, b[i].y, Element{});
      mma(sums, second, b[i].z, b[i].w, Element{});
    }
  }
};

template <class Element, class Out, bool kGated>
__global__ void __launch_bounds__(kWarps* kWarpLanes) skinny_kernel(SkinnyCall call) {
  __shared__ float4 parts[kWarps][kWarpLanes];
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const SkinnyTile<Element, kGated> tile(call, lane);
  const int groups = call.depth / kGroup;
  float sums[4] = {};
  for (int group = warp * kGroups; group < groups; group += kWarps * kGroups) tile.add(groups, group, sums);
  parts[warp][lane] = make_float4(sums[0], sums[1], sums[2], sums[3]);
  __syncthreads();
  if (warp != 0) return;
  float total[4] = {};
  for (int w = 0; w < kWarps; ++w) {
    const float4 part = parts[w][lane];
    total[0] += part.x, total[1] += part.y, total[2] += part.z, total[3] += part.w;
  }
  const int n = static_cast<int>(blockIdx.x) * (kGated ? kTileRows / 2 : kTileRows) + lane / 4;
  auto* out = static_cast<Out*>(call.out);
  const auto keep = [&](int row, int column, float value) {
    if (row < call.num_rows && column < call.width)
      from_float(value, out[static_cast<std::int64_t>(row) * call.width + column]);
  };
  for (int e = 0; e < 2; ++e) {
    const int row = lane % 4 * 2 + e;
    if constexpr (kGated) {
      keep(row, n, __fdividef(total[e], 1.0F + __expf(-total[e])) * total[2 + e]);
    } else {
      keep(row, n, total[e]);
      keep(row, n + 8, total[2 + e]);
    }
  }
}

template <class Element>
void run(const SkinnyCall& call, Stream stream) {
  const int own = call.gated ? kTileRows / 2 : kTileRows;
  const LaunchShape shape{dim3{static_cast<unsigned>(cpu::ceil_div(call.width, own))},
                          dim3{kWarps * kWarpLanes}};
  if (call.gated) {
    KVCRUSH_CHECK(!call.float_out);
    launch<skinny_kernel<Element, Element, true>>(shape, stream, call);
  } else if (call.float_out) {
    launch<skinny_kernel<Element, float, false>>(shape, stream, call);
  } else {
    launch<skinny_kernel<Element, Element, false>>(shape, stream, call);
  }
}

}  // namespace

bool skinny_serves(int num_rows, int depth, ActivationType type) {
  return num_rows <= kSkinnyRows && depth % kGroup == 0 && type != ActivationType::kF32;
}

void skinny_matmul(const SkinnyCall& call, Stream stream) {
  KVCRUSH_CHECK(skinny_serves(call.num_rows, call.depth, call.type));
  if (call.num_rows == 0) return;
  call.type == ActivationType::kF16 ? run<F16>(call, stream) : run<BF16>(call, stream);
}

}  // namespace kvcrush::cuda
