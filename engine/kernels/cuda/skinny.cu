#include "engine/kernels/cuda/skinny.h"

#include <algorithm>

#include "engine/core/status.h"
#include "engine/kernels/cuda/elementwise.cuh"
#include "engine/kernels/cuda/launch.h"

namespace kvcrush::cuda {

namespace {

constexpr int kWarps = 8;  // of a block; they share a tile's rows of w and take parts of the depth in turn
constexpr int kTileRows = 16;  // of w; gated: half of them gates, half what they let through
constexpr int kGroup = 32;     // of the depth: two steps of a tensor core
constexpr int kGroups = 4;     // of a turn: 256 neighbouring bytes of each row
constexpr int kBlocksPerProcessor = 2;

__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, F16) {
  mma_f16(c, a, b0, b1);
}
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, BF16) {
  mma_bf16(c, a, b0, b1);
}

// What a lane (r, q) reads for one turn: 16 bytes each of rows r and r + 8. Of eight neighbouring elements of
// the depth the first four are its part of one step, the rest of the next. x is read in the same order, and
// order is all that differs from a plain product.
struct SkinnyTurn {
  uint4 w[kGroups][2];
  uint4 x[kGroups];
};

template <class Element, bool kGated>
struct SkinnyRows {
  static constexpr int kOwn = kGated ? kTileRows / 2 : kTileRows;  // columns of out that a tile makes

  const SkinnyCall& call;
  int lane;
  int groups;
  int num_tiles;

  __device__ __forceinline__ const uint4* row(const void* matrix, int index) const {
    return reinterpret_cast<const uint4*>(static_cast<const Element*>(matrix) +
                                          static_cast<std::int64_t>(index) * call.depth) +
           lane % 4;
  }
  __device__ __forceinline__ void load(int tile, int group, SkinnyTurn& turn) const {
    const int r = lane / 4;
    const int first = tile * kOwn + r;
    const int last = call.width - 1;  // rows past it are read again and not kept
    const uint4* low = row(call.w, first < last ? first : last);
    const uint4* high = row(call.w, kGated             ? call.width + (first < last ? first : last)
                                    : first + 8 < last ? first + 8
                                                       : last);
    const uint4* x = row(call.x, r < call.num_rows ? r : 0);
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const int at = group + i;
      const bool there = tile < num_tiles && at < groups;
      const uint4 zero = make_uint4(0, 0, 0, 0);
      turn.w[i][0] = there ? load_once(low + at * 4) : zero;
      turn.w[i][1] = there ? load_once(high + at * 4) : zero;
      turn.x[i] = there && r < call.num_rows ? x[at * 4] : zero;
    }
  }
  __device__ __forceinline__ void add(const SkinnyTurn& turn, float (&sums)[4]) const {
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const uint4 low = turn.w[i][0];
      const uint4 high = turn.w[i][1];
      const unsigned first[4] = {low.x, high.x, low.y, high.y};
      const unsigned second[4] = {low.z, high.z, low.w, high.w};
      mma(sums, first, turn.x[i].x, turn.x[i].y, Element{});
      mma(sums, second, turn.x[i].z, turn.x[i].w, Element{});
    }
  }
};

// One tile's sums over all warps, by one of them.
template <class Out, bool kGated>
__device__ __forceinline__ void keep_tile(const SkinnyCall& call, int tile, int lane, const float4* parts) {
  float total[4] = {};
  for (int w = 0; w < kWarps; ++w) {
    const float4 part = parts[w * kWarpLanes + lane];
    total[0] += part.x, total[1] += part.y, total[2] += part.z, total[3] += part.w;
  }
  const int n = tile * (kGated ? kTileRows / 2 : kTileRows) + lane / 4;
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

// Where a warp is: a turn of a tile.
struct SkinnyPlace {
  int tile;
  int group;
};

// Blocks stay and take tiles in turn. Each warp reads one turn ahead, across tiles too: memory is never idle.
// The two turns are two sets of registers; copying one to the other would wait for it.
template <class Element, class Out, bool kGated>
__global__ void __launch_bounds__(kWarps* kWarpLanes, kBlocksPerProcessor)
    skinny_kernel(SkinnyCall call, int num_tiles) {
  __shared__ float4 parts[2][kWarps * kWarpLanes];
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const SkinnyRows<Element, kGated> rows{call, lane, call.depth / kGroup, num_tiles};
  SkinnyTurn turns[2];
  SkinnyPlace at{static_cast<int>(blockIdx.x), warp * kGroups};
  rows.load(at.tile, at.group, turns[0]);
  float sums[4] = {};
  int count = 0;
  while (true) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      SkinnyPlace next{at.tile, at.group + kWarps * kGroups};
      const bool last = next.group >= rows.groups;
      if (last) next = {at.tile + static_cast<int>(gridDim.x), warp * kGroups};
      rows.load(next.tile, next.group, turns[half ^ 1]);
      rows.add(turns[half], sums);
      if (last) {
        float4* own = parts[count % 2];
        own[threadIdx.x] = make_float4(sums[0], sums[1], sums[2], sums[3]);
        __syncthreads();  // the other half is read until the next one
        if (warp == count % kWarps) keep_tile<Out, kGated>(call, at.tile, lane, own);
        for (float& sum : sums) sum = 0;
        ++count;
        if (next.tile >= num_tiles) return;
      }
      at = next;
    }
  }
}

template <class Element>
void run(const SkinnyCall& call, Stream stream) {
  const int num_tiles = cpu::ceil_div(call.width, call.gated ? kTileRows / 2 : kTileRows);
  const int blocks = std::min(num_tiles, kBlocksPerProcessor * call.num_processors);
  const LaunchShape shape{dim3{static_cast<unsigned>(blocks)}, dim3{kWarps * kWarpLanes}};
  if (call.gated) {
    KVCRUSH_CHECK(!call.float_out);
    launch<skinny_kernel<Element, Element, true>>(shape, stream, call, num_tiles);
  } else if (call.float_out) {
    launch<skinny_kernel<Element, float, false>>(shape, stream, call, num_tiles);
  } else {
    launch<skinny_kernel<Element, Element, false>>(shape, stream, call, num_tiles);
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
