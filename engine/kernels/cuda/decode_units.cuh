// A decode's share of the cache as units of neighbouring tiles, and their way to shared memory as they are
// stored.
#pragma once

#include "engine/kernels/cuda/attention_shape.h"
#include "engine/kernels/cuda/device.cuh"

namespace kvcrush::cuda {

using cpu::CachedLayer;

// Where a tile's slots are. Numbers per block are constants of dtype and head_dim: no division is left.
struct TilePlace {
  int block;       // index in the block table
  int offset;      // of its first slot in the block
  int first_slot;  // in the sequence
  int width;       // slots of the tile in its block
  int count;       // slots in use; none: 0 or less
};

template <int kHeadDim, KvDtype kDtype>
struct PackedTiles {
  static constexpr int kTokensPerBlock = cpu::tokens_per_block(kDtype, kHeadDim);
  static constexpr int kPerBlock = (kTokensPerBlock + cpu::kTileTokens - 1) / cpu::kTileTokens;
  static constexpr int kCodeBytes = cpu::kTileTokens * kHeadDim * cpu::code_bits(kDtype) / 8;  // of K or V

  __device__ __forceinline__ static int num_tiles(int num_packed) {
    return num_packed / kTokensPerBlock * kPerBlock +
           cpu::ceil_div(num_packed % kTokensPerBlock, cpu::kTileTokens);
  }
  __device__ __forceinline__ static int num_blocks(int num_packed) {
    return cpu::ceil_div(num_packed, kTokensPerBlock);
  }
  __device__ __forceinline__ static TilePlace place(const CachedLayer& cache, int tile) {
    const int block = tile / kPerBlock;
    const int offset = tile % kPerBlock * cpu::kTileTokens;
    const int first = block * kTokensPerBlock + offset;
    const int width = cpu::tile_width(kTokensPerBlock, offset);
    const int left = cache.num_packed - first;
    return {block, offset, first, width, left < width ? left : width};
  }
};

template <int kHeadDim>
struct FloatTiles {
  static constexpr int kTokensPerBlock = cpu::tokens_per_block(KvDtype::kF16, kHeadDim);

  // tile: counted from the first one after `packed_blocks`.
  __device__ __forceinline__ static TilePlace place(const CachedLayer& cache, int packed_blocks, int tile) {
    const int slot = tile * cpu::kTileTokens;
    const int first = cache.num_packed + slot;
    const int left = cache.num_cached - first;
    return {packed_blocks + slot / kTokensPerBlock, slot % kTokensPerBlock, first, cpu::kTileTokens,
            left < cpu::kTileTokens ? left : cpu::kTileTokens};
  }
};

// 16-byte pieces of K and V rows in a staged float16 tile, V as two halves of its channels. Pieces are
// shuffled so that the eight rows of an ldmatrix, and eight lanes that read neighbouring channels of four
// tokens, meet every bank once.
__device__ __forceinline__ int staged_key_byte(int d, int half) {
  return d * 32 + ((half ^ (d >> 2 & 1)) << 4);
}
template <int kHeadDim>
__device__ __forceinline__ int staged_value_byte(int token, int half, int piece) {
  constexpr int kPieces = kHeadDim / 16;  // of half a row
  return (2 + half) * kHeadDim * cpu::kTileTokens + token * kHeadDim +
         ((piece ^ ((token >> 1 & 3) << 1 & (kPieces - 1))) << 4);
}

// Starts one lane's copies of a float16 tile. Rows of V from `count` on become zeros: no weight times NaN is
// NaN. What depends on the lane is apart from what depends on the turn, which so becomes part of the
// instructions.
template <int kHeadDim>
__device__ __forceinline__ void start_float_tile(const std::byte* head, const TilePlace& at, int lane,
                                                 std::byte* to) {
  constexpr int kTurns = kHeadDim * cpu::kTileTokens * 2 / 16 / kWarpLanes;  // of K or V
  constexpr int kTurnBytes = kWarpLanes * 16;
  constexpr int kPieces = kHeadDim / 8;  // of a token
  constexpr int kTurnTokens = kWarpLanes / kPieces;
  const std::byte* keys = head + at.offset * kHeadDim * 2 + lane * 16;
  const std::byte* values = keys + FloatTiles<kHeadDim>::kTokensPerBlock * kHeadDim * 2;
  std::byte* staged_keys = to + staged_key_byte(lane / 2, lane % 2);
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn)
    copy_async_16(staged_keys + turn * kTurnBytes, keys + turn * kTurnBytes, true);
  const int token = lane / kPieces;
  const int half = lane % kPieces / (kPieces / 2);
  const int piece = lane % (kPieces / 2);
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    const int first = turn * kTurnTokens;  // rows of two tokens are shuffled alike
    std::byte* row = to + staged_value_byte<kHeadDim>(kTurnTokens > 2 ? first + token : first, half, piece);
    copy_async_16(kTurnTokens > 2 ? row : row + token * kHeadDim, values + turn * kTurnBytes,
                  first + token < at.count);
  }
}

// Starts one lane's copies of a packed tile that `kLanes` lanes fetch together: codes of K, codes of V, then
// K scales, K minima, V scales and V minima, 32 bytes each.
template <int kHeadDim, KvDtype kDtype, int kLanes>
__device__ __forceinline__ void start_packed_tile(std::byte* head, const TilePlace& at, int lane,
                                                  std::byte* to) {
  using Tiles = PackedTiles<kHeadDim, kDtype>;
  const cpu::QuantisedHead q = cpu::quantised_head(head, kDtype, Tiles::kTokensPerBlock, kHeadDim);
  const int skip = at.offset * kHeadDim * cpu::code_bits(kDtype) / 8 + lane * 16;
  const std::byte* keys = q.keys + skip;
  const std::byte* values = q.values + skip;
  to += lane * 16;
  const auto copy_half = [&](int first) {
#pragma unroll
    for (int i = 0; i < Tiles::kCodeBytes / 2; i += kLanes * 16) {
      copy_async_16(to + first + i, keys + first + i, true);
      copy_async_16(to + Tiles::kCodeBytes + first + i, values + first + i, true);
    }
  };
  copy_half(0);
  if (at.width == cpu::kTileTokens) copy_half(Tiles::kCodeBytes / 2);
  const int array = lane / 2;
  if (array < 4 && lane % 2 * 16 < at.width * 2) {
    copy_async_16(
        to + 2 * Tiles::kCodeBytes,
        reinterpret_cast<const std::byte*>(q.key_scales + array * Tiles::kTokensPerBlock + at.offset) +
            lane % 2 * 16,
        true);
  }
}

// The units of one sequence's layer: packed tiles first.
template <int kHeadDim>
struct UnitWalk {
  CachedLayer cache;
  int packed_tiles;
  int packed_blocks;
  int packed_units;
  int num_units;

  __device__ __forceinline__ explicit UnitWalk(const CachedLayer& layer) : cache(layer) {
    packed_tiles = packed_blocks = packed_units = 0;
    if (cache.num_packed > 0) {
      if (int4()) {
        set_packed<KvDtype::kInt4>();
      } else {
        set_packed<KvDtype::kInt8>();
      }
    }
    num_units = packed_units + cpu::ceil_div(cache.num_cached - cache.num_packed, cpu::kTileTokens);
  }
  __device__ __forceinline__ bool int4() const { return cache.format.packed == KvDtype::kInt4; }

  // The unit that a slot is in.
  __device__ __forceinline__ int unit_of(int slot) const {
    if (slot >= cache.num_packed) return packed_units + (slot - cache.num_packed) / cpu::kTileTokens;
    return int4() ? packed_unit_of<KvDtype::kInt4>(slot) : packed_unit_of<KvDtype::kInt8>(slot);
  }
  // The pool block that start() wants of this lane.
  __device__ __forceinline__ int read_block(int unit, int lane) const {
    if (unit >= num_units) return 0;
    int index = 0;
    if (unit >= packed_units) {
      index = FloatTiles<kHeadDim>::place(cache, packed_blocks, unit - packed_units).block;
    } else if (int4()) {
      index = packed_place<KvDtype::kInt4>(unit, lane).block;
    } else {
      index = packed_place<KvDtype::kInt8>(unit, lane).block;
    }
    return unit >= packed_units || index < packed_blocks ? cache.blocks[index] : 0;
  }
  // head: the KV head's part of pool block 0.
  __device__ __forceinline__ void start(std::byte* head, std::int64_t block_bytes, int unit, int block,
                                        int lane, std::byte* to) const {
    std::byte* own = head + block * block_bytes;
    if (unit >= packed_units) {
      start_float_tile<kHeadDim>(own, FloatTiles<kHeadDim>::place(cache, packed_blocks, unit - packed_units),
                                 lane, to);
    } else if (int4()) {
      start_packed<KvDtype::kInt4>(own, unit, lane, to);
    } else {
      start_packed<KvDtype::kInt8>(own, unit, lane, to);
    }
  }

 private:
  template <KvDtype kDtype>
  __device__ __forceinline__ void set_packed() {
    packed_tiles = PackedTiles<kHeadDim, kDtype>::num_tiles(cache.num_packed);
    packed_blocks = PackedTiles<kHeadDim, kDtype>::num_blocks(cache.num_packed);
    packed_units = cpu::ceil_div(packed_tiles, unit_tiles(kDtype));
  }
  template <KvDtype kDtype>
  __device__ __forceinline__ static int packed_unit_of(int slot) {
    return (PackedTiles<kHeadDim, kDtype>::num_tiles(slot + 1) - 1) / unit_tiles(kDtype);
  }
  // Lanes share a unit's tiles evenly.
  template <KvDtype kDtype>
  static constexpr int kTileLanes = kWarpLanes / unit_tiles(kDtype);
  template <KvDtype kDtype>
  __device__ __forceinline__ TilePlace packed_place(int unit, int lane) const {
    return PackedTiles<kHeadDim, kDtype>::place(cache, unit * unit_tiles(kDtype) + lane / kTileLanes<kDtype>);
  }
  template <KvDtype kDtype>
  __device__ __forceinline__ void start_packed(std::byte* head, int unit, int lane, std::byte* to) const {
    const TilePlace at = packed_place<kDtype>(unit, lane);
    if (at.count <= 0) return;
    start_packed_tile<kHeadDim, kDtype, kTileLanes<kDtype>>(
        head, at, lane % kTileLanes<kDtype>,
        to + lane / kTileLanes<kDtype> * staged_tile_bytes(kDtype, kHeadDim));
  }
};

}  // namespace kvcrush::cuda
