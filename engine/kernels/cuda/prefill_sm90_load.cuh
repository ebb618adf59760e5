// The warps of a Hopper prefill block that bring K and V of the paged cache into shared memory, as float16 in
// wgmma's layouts, one stage of kTokens tokens after the other. Float16 tiles are copied to their places
// asynchronously; packed ones as they are to a buffer beside, ahead of time, and widened from there.
#pragma once

#include "engine/kernels/cuda/prefill_sm90_work.cuh"

namespace kvcrush::cuda {

// Where 8 neighbouring columns of a stage are stored.
struct Octet {
  const std::byte* head = nullptr;  // the KV head's part of their block; null: nothing there
  int offset = 0;                   // of the first in the block
};

__device__ __forceinline__ Octet octet_of_lane(const Octet& octet, int lane) {
  const auto address = reinterpret_cast<unsigned long long>(octet.head);
  return {reinterpret_cast<const std::byte*>(__shfl_sync(kAllLanes, address, lane)),
          __shfl_sync(kAllLanes, octet.offset, lane)};
}

// Codes, one a byte, as pairs of float16 numbers: 1024 + code is exact, and its bits are 0x6400 | code.
__device__ __forceinline__ uint2 widen_codes(unsigned codes, uint2 scales, uint2 minima) {
  constexpr unsigned k1024 = 0x64006400U;
  constexpr unsigned kHigh = 0x64646464U;
  return make_uint2(f16x2_fma(f16x2_subtract(__byte_perm(codes, kHigh, 0x4140), k1024), scales.x, minima.x),
                    f16x2_fma(f16x2_subtract(__byte_perm(codes, kHigh, 0x4342), k1024), scales.y, minima.y));
}
__device__ __forceinline__ uint4 widen_codes(uint2 codes, uint4 scales, uint4 minima) {
  const uint2 low = widen_codes(codes.x, make_uint2(scales.x, scales.y), make_uint2(minima.x, minima.y));
  const uint2 high = widen_codes(codes.y, make_uint2(scales.z, scales.w), make_uint2(minima.z, minima.w));
  return make_uint4(low.x, low.y, high.x, high.y);
}
__device__ __forceinline__ uint2 nibbles(uint2 codes, bool high) {
  const int shift = high ? 4 : 0;
  return make_uint2(codes.x >> shift & 0x0f0f0f0fU, codes.y >> shift & 0x0f0f0f0fU);
}
__device__ __forceinline__ void copy_async_8(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}

// One of the two warps that bring a stream, K or V; it takes every other tile of 16 columns.
template <class Shape, KvPart kStream>
class Loader {
  static constexpr bool kKeys = kStream == KvPart::kKeys;
  static constexpr int kHeadDim = Shape::kHeadDim;

 public:
  __device__ __forceinline__ Loader(const PrefillWork& work, const PrefillShared<Shape>& shared, int warp)
      : work_(work), shared_(shared), warp_(warp), lane_(static_cast<int>(threadIdx.x) % kWarpLanes) {}

  __device__ __forceinline__ void run() {
    unsigned unit = 0;  // stages so far
    int index = work_.item(0);
    for (int round = 0; index < work_.num_items; index = work_.item(++round)) {
      const RowTile tile = work_.row_tiles[index / work_.pool.num_kv_heads];
      const PrefillItem item(work_, tile, index, Shape::kRows);
      const cpu::CachedLayer& cache = work_.sequences[tile.sequence].cache;
      const std::int64_t head = item.kv_head * (work_.pool.block_bytes / work_.pool.num_kv_heads);
      Octet octet = locate(cache, item, head, 0);
      if constexpr (Shape::kQuantised) fetch(cache.format, item, 0, octet);
      for (int first = 0; first < item.num_columns; first += Shape::kTokens) {
        const unsigned slot = unit % Shape::kStages;
        if constexpr (Shape::kQuantised) wait_for_copies<0>();
        __syncwarp();
        barrier_wait(shared_.empty(kStream, slot), (unit / Shape::kStages + 1) % 2);
        fill(cache, item, first, octet, shared_.base + shared_.stage_at(kStream, slot));
        commit_copies();
        octet = locate(cache, item, head, first + Shape::kTokens);
        wait_for_copies<0>();
        fence_for_wgmma();
        __syncwarp();
        if (lane_ == 0) barrier_arrive(shared_.full(kStream, slot));
        if constexpr (Shape::kQuantised) fetch(cache.format, item, first + Shape::kTokens, octet);
        ++unit;
      }
    }
  }

 private:
  // This lane's octet of the stage that begins at column `first`.
  __device__ __forceinline__ Octet locate(const cpu::CachedLayer& cache, const PrefillItem& item,
                                          std::int64_t head, int first) const {
    const int column = first + 8 * lane_;
    const bool packed = column < item.num_packed;
    if (lane_ >= 2 * Shape::kTiles || column >= item.num_columns || (!packed && column < item.tail_column))
      return {};
    const int per_block = packed ? cache.format.packed_tokens_per_block : cache.format.tail_tokens_per_block;
    const int slot = packed ? column : column - item.tail_column;
    const int index = slot / per_block + (packed ? 0 : cpu::num_packed_blocks(cache));
    return {work_.pool.base + cache.blocks[index] * work_.pool.block_bytes + head, slot % per_block};
  }

  __device__ __forceinline__ void fill(const cpu::CachedLayer& cache, const PrefillItem& item, int first,
                                       const Octet& octet, std::byte* to) const {
    const int shift = item.tail_column - item.num_packed;
    for (int tile = warp_; tile < Shape::kTiles; tile += 2) {
      const int column = first + kTileTokens * tile;
      if (Shape::kQuantised && column < item.num_packed) {
#pragma unroll 1
        for (int half = 0; half < 2; ++half)
          widen(cache.format, item.num_packed - column - 8 * half, octet, tile, half, to);
        continue;
      }
      const Octet source = octet_of_lane(octet, 2 * tile);
      if (kKeys && source.head == nullptr) continue;  // scores that nobody looks at
      const int part = kKeys ? 0 : cache.format.tail_tokens_per_block;
      const std::byte* from =
          source.head == nullptr ? work_.pool.base : source.head + (part + source.offset) * (kHeadDim * 2);
      const int num_valid = source.head == nullptr ? 0 : cache.num_cached + shift - column;
      copy(from, num_valid, tile, to);
    }
  }

  // A float16 tile. V that nobody wrote becomes zeros: it has no weight, but no weight times NaN is NaN.
  __device__ __forceinline__ void copy(const std::byte* from, int num_valid, int tile, std::byte* to) const {
    const int lane = thread_below<kWarpLanes>();
    constexpr int kPiecesPerToken = kHeadDim / 8;
    const int key_offset = Shape::Keys::offset(tile, lane / 2, lane % 2);
#pragma unroll
    for (int i = 0; i < kHeadDim / 16; ++i) {
      const int piece = lane + kWarpLanes * i;
      if constexpr (kKeys) {
        copy_async_16(to + key_offset + 16 * i * Shape::Keys::kRowBytes, from + 16 * piece, true);
      } else {
        const int token = piece / kPiecesPerToken;
        copy_async_16(to + Shape::Values::offset(tile, token, piece % kPiecesPerToken), from + 16 * piece,
                      token < num_valid);
      }
    }
  }

  // Starts copies of the packed octets of this warp's tiles, as they are stored, to be widened when there is
  // room.
  __device__ __forceinline__ void fetch(const cpu::KvFormat& format, const PrefillItem& item, int first,
                                        const Octet& octet) const {
    const int bits = format.packed == KvDtype::kInt4 ? 4 : 8;
    const int per_block = format.packed_tokens_per_block;
#pragma unroll 1
    for (int i = 2 * warp_; i < 2 * Shape::kTiles; i += i % 2 == 0 ? 1 : 3) {
      if (first + 8 * i >= item.num_packed) break;
      const Octet source = octet_of_lane(octet, i);
      const int tile_offset = source.offset / kTileTokens * kTileTokens;
      const int width = cpu::tile_width(per_block, tile_offset);
      const int lane = thread_below<kWarpLanes>();
      std::byte* to = shared_.raw(kStream, i);
      const std::byte* codes =
          source.head + (kKeys ? tile_offset : per_block + source.offset) * (kHeadDim * bits / 8);
      if (kKeys && bits == 8 && width == kTileTokens) {
        codes += source.offset % kTileTokens;
#pragma unroll
        for (int i = 0; i < kHeadDim / kWarpLanes; ++i) {
          const int d = lane + kWarpLanes * i;
          copy_async_8(to + 8 * d, codes + kTileTokens * d);
        }
      } else {
        const int bytes = (kKeys ? width : 8) * kHeadDim * bits / 8;
#pragma unroll
        for (int i = 0; i < (kHeadDim * 8 / 16 + kWarpLanes - 1) / kWarpLanes; ++i) {
          const int piece = lane + kWarpLanes * i;
          if (piece < bytes / 16) copy_async_16(to + 16 * piece, codes + 16 * piece, true);
        }
      }
      const int scales_of = (kKeys ? 0 : 2) + lane;  // then minima
      if (lane < 2)
        copy_async_16(
            to + kHeadDim * 8 + 16 * lane,
            source.head + per_block * (2 * kHeadDim * bits / 8) + 2 * (scales_of * per_block + source.offset),
            true);
    }
    commit_copies();
  }

  // Widens an octet that fetch() brought to place `half` of a tile.
  __device__ __forceinline__ void widen(const cpu::KvFormat& format, int num_valid, const Octet& octet,
                                        int tile, int half, std::byte* to) const {
    const std::byte* raw = shared_.raw(kStream, 2 * tile + half);
    const bool four_bits = format.packed == KvDtype::kInt4;
    if constexpr (kKeys) {
      const int offset = octet_of_lane(octet, 2 * tile + half).offset;
      if (num_valid <= 0) return;
      const int width = cpu::tile_width(format.packed_tokens_per_block, offset / kTileTokens * kTileTokens);
      four_bits ? widen_keys<true>(raw, width == 8, offset % kTileTokens != 0, tile, half, to)
                : widen_keys<false>(raw, false, false, tile, half, to);
    } else {
      four_bits ? widen_values<true>(raw, num_valid, tile, half, to)
                : widen_values<false>(raw, num_valid, tile, half, to);
    }
  }

  // int4: tokens of a whole tile lie in the low nibbles of 8 bytes, or in the high ones; of half a tile in
  // both nibbles of 4 bytes.
  template <bool kFourBits>
  __device__ __forceinline__ void widen_keys(const std::byte* raw, bool narrow, bool high, int tile, int half,
                                             std::byte* to) const {
    const int lane = thread_below<kWarpLanes>();
    constexpr int kRounds = kHeadDim / kWarpLanes;
    const uint4 scales = *reinterpret_cast<const uint4*>(raw + kHeadDim * 8);
    const uint4 minima = *reinterpret_cast<const uint4*>(raw + kHeadDim * 8 + 16);
    uint2 codes[kRounds];
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const int d = lane + kWarpLanes * i;
      if (kFourBits && narrow) {
        codes[i].x = reinterpret_cast<const unsigned*>(raw)[d];
        codes[i].y = codes[i].x >> 4;
      } else {
        codes[i] = reinterpret_cast<const uint2*>(raw)[d];
      }
    }
    to += Shape::Keys::offset(tile, lane, half);
#pragma unroll
    for (int i = 0; i < kRounds; ++i)
      *reinterpret_cast<uint4*>(to + kWarpLanes * i * Shape::Keys::kRowBytes) =
          widen_codes(kFourBits ? nibbles(codes[i], high) : codes[i], scales, minima);
  }

  // int4: 8 bytes hold channels in the low nibbles and those head_dim / 2 further in the high ones.
  template <bool kFourBits>
  __device__ __forceinline__ void widen_values(const std::byte* raw, int num_valid, int tile, int half,
                                               std::byte* to) const {
    const int lane = thread_below<kWarpLanes>();
    constexpr int kWords = kHeadDim / (kFourBits ? 16 : 8);  // of 8 bytes, of a token
    constexpr int kRounds = 8 * kWords / kWarpLanes;
    const auto* scales = reinterpret_cast<const std::uint16_t*>(raw + kHeadDim * 8) + lane / kWords;
    uint2 codes[kRounds];
    unsigned scale[kRounds];
    unsigned minimum[kRounds];
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const int step = kWarpLanes / kWords * i;  // tokens
      codes[i] = reinterpret_cast<const uint2*>(raw)[lane + kWarpLanes * i];
      const bool valid = lane / kWords + step < num_valid;
      scale[i] = valid ? scales[step] * 0x10001U : 0;
      minimum[i] = valid ? scales[8 + step] * 0x10001U : 0;
    }
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const int token = 8 * half + lane / kWords + kWarpLanes / kWords * i;
      const uint4 all_scales = make_uint4(scale[i], scale[i], scale[i], scale[i]);
      const uint4 all_minima = make_uint4(minimum[i], minimum[i], minimum[i], minimum[i]);
      const auto store = [&](uint2 some, int piece) {
        *reinterpret_cast<uint4*>(to + Shape::Values::offset(tile, token, piece)) =
            widen_codes(some, all_scales, all_minima);
      };
      store(kFourBits ? nibbles(codes[i], false) : codes[i], lane % kWords);
      if constexpr (kFourBits) store(nibbles(codes[i], true), lane % kWords + kWords);
    }
  }

  const PrefillWork& work_;
  PrefillShared<Shape> shared_;
  int warp_;
  int lane_;
};

}  // namespace kvcrush::cuda
