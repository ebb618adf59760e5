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
constexpr int kTurnBytes = kGroups * 3 * kWarpLanes * 16;

__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, F16) {
  mma_f16(c, a, b0, b1);
}
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, BF16) {
  mma_bf16(c, a, b0, b1);
}

// Where a warp is: a turn of a tile.
struct SkinnyPlace {
  int tile;
  int group;

  // Returns whether that was the tile's last turn.
  __device__ __forceinline__ bool advance(int first_group, int groups) {
    group += kWarps * kGroups;
    if (group < groups) return false;
    tile += static_cast<int>(gridDim.x);
    group = first_group;
    return true;
  }
};

// A lane (r, q) copies 16 bytes each of rows r and r + 8 of w and of row r of x, for itself alone: no warp
// waits for another. Of eight neighbouring elements of the depth the first four are its part of one step, the
// rest of the next. x is read in the same order, and order is all that differs from a plain product.
template <class Element, bool kGated>
struct SkinnyRows {
  static constexpr int kOwn = kGated ? kTileRows / 2 : kTileRows;  // columns of out that a tile makes

  const SkinnyCall& call;
  int lane;
  int groups;
  int num_tiles;

  __device__ __forceinline__ const std::byte* row(const void* matrix, int index) const {
    return reinterpret_cast<const std::byte*>(static_cast<const Element*>(matrix) +
                                              static_cast<std::int64_t>(index) * call.depth) +
           lane % 4 * 16;
  }
  __device__ __forceinline__ void start_weights(const SkinnyPlace& at, std::byte* turn) const {
    const int last = call.width - 1;  // rows past it are read again and not kept
    const int n = at.tile * kOwn + lane / 4;
    const int first = n < last ? n : last;
    const int second = kGated ? call.width + first : n + 8 < last ? n + 8 : last;
    const std::byte* rows[2] = {row(call.w, first), row(call.w, second)};
    copy_rows<2>(at, rows, true, turn + lane * 16);
  }
  __device__ __forceinline__ void start_x(const SkinnyPlace& at, std::byte* turn) const {
    const int r = lane / 4;
    const std::byte* rows[1] = {row(call.x, r < call.num_rows ? r : 0)};
    copy_rows<1>(at, rows, r < call.num_rows, turn + (2 * kWarpLanes + lane) * 16);
    commit_copies();
  }
  template <int kRows>
  __device__ __forceinline__ void copy_rows(const SkinnyPlace& at, const std::byte* const (&rows)[kRows],
                                            bool valid, std::byte* to) const {
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const bool there = valid && at.tile < num_tiles && at.group + i < groups;
#pragma unroll
      for (int j = 0; j < kRows; ++j)
        copy_async_16(to + (3 * i + j) * kWarpLanes * 16, rows[j] + (at.group + i) * kGroup * 2, there);
    }
  }
  __device__ __forceinline__ void add(const std::byte* turn, float (&sums)[4]) const {
    const auto* own = reinterpret_cast<const uint4*>(turn) + lane;
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const uint4 low = own[3 * i * kWarpLanes];
      const uint4 high = own[(3 * i + 1) * kWarpLanes];
      const uint4 x = own[(3 * i + 2) * kWarpLanes];
      const unsigned first[4] = {low.x, high.x, low.y, high.y};
      const unsigned second[4] = {low.z, high.z, low.w, high.w};
      mma(sums, first, x.x, x.y, Element{});
      mma(sums, second, x.z, x.w, Element{});
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
      keep(row, n, gated(call.activation, total[e], total[2 + e]));
    } else {
      keep(row, n, total[e]);
      keep(row, n + 8, total[2 + e]);
    }
  }
}

// Shared memory of a block with so many turns of each warp in it, all but one of which are on their way.
constexpr int shared_bytes(int stages) {
  return kWarps * stages * kTurnBytes;
}
constexpr int kPartsBytes = 2 * kWarps * kWarpLanes * 16;

// Blocks stay and take tiles in turn. Each warp's copies run ahead, across tiles too: memory is never idle.
template <class Element, class Out, bool kGated, int kStages>
__global__ void __launch_bounds__(kWarps* kWarpLanes) skinny_kernel(SkinnyCall call, int num_tiles) {
  __shared__ float4 parts[2][kWarps * kWarpLanes];
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const SkinnyRows<Element, kGated> rows{call, lane, call.depth / kGroup, num_tiles};
  std::byte* turns = dynamic_shared() + warp * kStages * kTurnBytes;
  const SkinnyPlace first{static_cast<int>(blockIdx.x), warp * kGroups};
  SkinnyPlace ahead = first;
  for (int stage = 0; stage + 1 < kStages; ++stage) {
    rows.start_weights(ahead, turns + stage * kTurnBytes);  // nobody writes those
    ahead.advance(first.group, rows.groups);
  }
  wait_for_earlier_kernels();
  ahead = first;
  for (int stage = 0; stage + 1 < kStages; ++stage) {
    rows.start_x(ahead, turns + stage * kTurnBytes);
    ahead.advance(first.group, rows.groups);
  }
  SkinnyPlace at = first;
  float sums[4] = {};
  int stage = 0;
  int count = 0;
  while (at.tile < num_tiles) {
    std::byte* free = turns + (stage + kStages - 1) % kStages * kTurnBytes;
    rows.start_weights(ahead, free);
    rows.start_x(ahead, free);
    ahead.advance(first.group, rows.groups);
    wait_for_copies<kStages - 1>();
    rows.add(turns + stage * kTurnBytes, sums);
    stage = (stage + 1) % kStages;
    const int tile = at.tile;
    if (!at.advance(first.group, rows.groups)) continue;
    float4* own = parts[count % 2];
    own[threadIdx.x] = make_float4(sums[0], sums[1], sums[2], sums[3]);
    __syncthreads();  // the other half is read until the next one
    if (warp == count % kWarps) keep_tile<Out, kGated>(call, tile, lane, own);
    for (float& sum : sums) sum = 0;
    ++count;
  }
  wait_for_copies<0>();
}

template <class Element, int kStages>
void run(const SkinnyCall& call, Stream stream) {
  const int num_tiles = cpu::ceil_div(call.width, call.gated ? kTileRows / 2 : kTileRows);
  const LaunchShape shape{dim3{static_cast<unsigned>(std::min(num_tiles, call.num_processors))},
                          dim3{kWarps * kWarpLanes}, static_cast<std::size_t>(shared_bytes(kStages))};
  if (call.gated) {
    KVCRUSH_CHECK(!call.float_out);
    launch_early<skinny_kernel<Element, Element, true, kStages>>(shape, stream, call, num_tiles);
  } else if (call.float_out) {
    launch_early<skinny_kernel<Element, float, false, kStages>>(shape, stream, call, num_tiles);
  } else {
    launch_early<skinny_kernel<Element, Element, false, kStages>>(shape, stream, call, num_tiles);
  }
}

template <int kStages>
void run_for_type(const SkinnyCall& call, Stream stream) {
  call.type == ActivationType::kF16 ? run<F16, kStages>(call, stream) : run<BF16, kStages>(call, stream);
}

}  // namespace

bool skinny_serves(int num_rows, int depth, ActivationType type) {
  return num_rows <= kSkinnyRows && depth % kGroup == 0 && type != ActivationType::kF32 &&
         shared_bytes(3) + kPartsBytes <= most_shared_bytes();
}

void skinny_matmul(const SkinnyCall& call, Stream stream) {
  KVCRUSH_CHECK(skinny_serves(call.num_rows, call.depth, call.type));
  if (call.num_rows == 0) return;
  shared_bytes(4) + kPartsBytes <= most_shared_bytes() ? run_for_type<4>(call, stream)
                                                       : run_for_type<3>(call, stream);
}

}  // namespace kvcrush::cuda
