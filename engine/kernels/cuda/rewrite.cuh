// Collects tokens from anywhere in a cached layer into one block, one head's part of it, in shared memory.
#pragma once

#include <type_traits>

#include "engine/kernels/cuda/elementwise.cuh"
#include "engine/kernels/cuda/kv_tile.cuh"

namespace kvcrush::cuda {

using cpu::CachedLayer;

inline constexpr int kRewriteThreads = 256;
inline constexpr int kRewriteWarps = kRewriteThreads / kWarpLanes;
inline constexpr int kMaxBlockTokens = 128;  // of int4, the densest: 128 D / (D + 8)
inline constexpr int kLoadsInFlight = 8;     // of a thread

// Where a token lies.
struct TokenPlace {
  std::byte* head;    // its head's part of a block
  std::int32_t slot;  // in the block
  std::int32_t packed;
};

__device__ __forceinline__ TokenPlace find_token(const KvPool& pool, const CachedLayer& from, int kv_head,
                                                 int slot) {
  const bool packed = slot < from.num_packed;
  const int per_block = packed ? from.format.packed_tokens_per_block : from.format.tail_tokens_per_block;
  const int local = packed ? slot : slot - from.num_packed;
  const int index = (packed ? 0 : cpu::num_packed_blocks(from)) + local / per_block;
  return {cpu::head_base(pool, from.blocks[index], kv_head), local % per_block, packed ? 1 : 0};
}

// One block of the target's layout: its slots and how they are stored.
struct BlockSlots {
  int index;  // in the block table
  int first_slot;
  int count;
  int capacity;
  KvDtype dtype;
};
__device__ __forceinline__ BlockSlots block_at(const CachedLayer& layer, int index) {
  const int packed_blocks = cpu::num_packed_blocks(layer);
  const bool packed = index < packed_blocks;
  const int capacity = packed ? layer.format.packed_tokens_per_block : layer.format.tail_tokens_per_block;
  const int first = packed ? index * capacity : layer.num_packed + (index - packed_blocks) * capacity;
  const int left = (packed ? layer.num_packed : layer.num_cached) - first;
  return {index, first, left < capacity ? left : capacity, capacity,
          packed ? layer.format.packed : layer.format.tail};
}

// Slots of the block's tiles that hold a token.
__device__ __forceinline__ int filled_slots(const BlockSlots& block) {
  const int slots = cpu::ceil_div(block.count, kTileTokens) * kTileTokens;
  return slots < block.capacity ? slots : block.capacity;
}

struct BlockGather {
  BlockSlots block;
  const TokenPlace* places;  // [block.count]
  KvDtype from_float;        // of tokens that are not packed
  int from_capacity;         // tokens of a block of those
  int head_dim;
  std::byte* out;
};

template <class To, class From>
__device__ __forceinline__ To convert(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else {
    To result;
    from_float(to_float(x), result);
    return result;
  }
}

// Channel 0 of a token's key; the next ones are kTileTokens elements apart.
template <class Element>
__device__ __forceinline__ const Element* float_key(const TokenPlace& place, int head_dim) {
  return reinterpret_cast<const Element*>(place.head) + place.slot / kTileTokens * kTileTokens * head_dim +
         place.slot % kTileTokens;
}
template <class Element>
__device__ __forceinline__ const Element* float_value(const BlockGather& g, const TokenPlace& place) {
  return reinterpret_cast<const Element*>(place.head) + (g.from_capacity + place.slot) * g.head_dim;
}

// Neighbouring threads take neighbouring tokens of one channel: survivors of one tile share its memory
// sectors.
template <class From, class To>
__device__ void gather_float_keys(const BlockGather& g, int thread) {
  constexpr int kChannels = kRewriteThreads / kTileTokens;  // in one go
  const int column = thread % kTileTokens;
  for (int first = 0; first < g.block.count; first += kTileTokens) {
    const bool valid = first + column < g.block.count;
    const From* source = valid ? float_key<From>(g.places[first + column], g.head_dim) : nullptr;
    To* target = reinterpret_cast<To*>(g.out) + first * g.head_dim + column;
    for (int base = thread / kTileTokens; base < g.head_dim; base += kChannels * kLoadsInFlight) {
      From loaded[kLoadsInFlight] = {};
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; ++i) {
        const int d = base + i * kChannels;
        if (valid && d < g.head_dim) loaded[i] = source[d * kTileTokens];
      }
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; ++i) {
        const int d = base + i * kChannels;
        if (d < g.head_dim) target[d * kTileTokens] = convert<To>(loaded[i]);
      }
    }
  }
}

// Elements of one type move as 16 bytes at a time, others as eight elements.
template <class From, class To>
__device__ void gather_float_values(const BlockGather& g, int thread) {
  constexpr int kWidth =
      std::is_same_v<From, To> ? 16 / static_cast<int>(sizeof(From)) : kPiece;  // elements of a piece
  const int pieces = g.head_dim / kWidth;
  To* values = reinterpret_cast<To*>(g.out) + g.block.capacity * g.head_dim;
  for (int i = thread; i < filled_slots(g.block) * pieces; i += kRewriteThreads) {
    const int slot = i / pieces;
    const From* source =
        slot < g.block.count ? float_value<From>(g, g.places[slot]) + i % pieces * kWidth : nullptr;
    To* target = values + i * kWidth;
    if constexpr (std::is_same_v<From, To>) {
      *reinterpret_cast<uint4*>(target) =
          source != nullptr ? *reinterpret_cast<const uint4*>(source) : make_uint4(0, 0, 0, 0);
    } else {
      float x[kPiece] = {};
      if (source != nullptr) load_floats(source, x);
      store_floats(x, target);
    }
  }
}

// Scale and minimum of one token's head as they are stored, and what codes are computed with. The operations
// and their rounding are those of the CPU (cpu/gather.inc) where it fuses multiply and add: codes are the
// same.
struct Quantiser {
  F16 scale_bits;
  F16 minimum_bits;
  float minimum;
  float inverse;
  float levels;

  __device__ __forceinline__ Quantiser(float low, float high, float num_levels) : levels(num_levels) {
    const float bounded = low < -65504.0F ? -65504.0F : (low > 65504.0F ? 65504.0F : low);
    const float range = (high - bounded) / levels;
    from_float(bounded, minimum_bits);
    from_float(range < 65504.0F ? range : 65504.0F, scale_bits);
    minimum = to_float(minimum_bits);
    const float scale = to_float(scale_bits);
    inverse = scale > 0.0F ? 1.0F / scale : 0.0F;
  }
  __device__ __forceinline__ unsigned code(float x) const {
    constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
    const float rounded = fmaf(x - minimum, inverse, kRound) - kRound;
    const float positive = rounded > 0.0F ? rounded : 0.0F;
    return static_cast<unsigned>(positive < levels ? positive : levels);
  }
};

// The codes of one token's key: channel d's is in byte d * row_bytes, in its high nibble where `shift` is 4.
struct CodeColumn {
  std::uint8_t* codes;
  int row_bytes;
  int shift;
};
template <int kBits>
__device__ __forceinline__ CodeColumn code_column(std::byte* keys, int capacity, int slot, int head_dim) {
  const int offset = slot / kTileTokens * kTileTokens;
  const int row_bytes = cpu::tile_width(capacity, offset) * kBits / 8;
  const int column = slot - offset;
  const bool high = column >= row_bytes;  // of int4
  return {
      reinterpret_cast<std::uint8_t*>(keys) + offset * head_dim * kBits / 8 + column - (high ? row_bytes : 0),
      row_bytes, high ? 4 : 0};
}

struct Range {
  float low;
  float high;

  __device__ __forceinline__ void add(float x) {
    low = low < x ? low : x;
    high = high > x ? high : x;
  }
  // Of lanes whose numbers differ in this bit.
  __device__ __forceinline__ void merge(int lane_bit) {
    const float other_low = __shfl_xor_sync(kAllLanes, low, lane_bit);
    const float other_high = __shfl_xor_sync(kAllLanes, high, lane_bit);
    low = low < other_low ? low : other_low;
    high = high > other_high ? high : other_high;
  }
};
__device__ __forceinline__ Range no_range() {
  return {-minus_infinity(), minus_infinity()};
}

}  // namespace kvcrush::cuda
