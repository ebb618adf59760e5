#include "engine/kernels/cuda/rewrite.cuh"

#include "engine/core/status.h"
#include "engine/kernels/cuda/launch.h"
#include "engine/kernels/cuda/rewrite.h"

namespace kvcrush::cuda {

namespace {

constexpr float levels_of(int bits) {
  return bits == 4 ? 15.0F : 255.0F;
}

// Runs a warp over one tile's keys: lane % 16 is the token, lane / 16 and every second one from there are its
// channels. Tokens from floats are read twice, for their range and for their codes.
template <int kBits, class From>
__device__ void gather_key_codes(const BlockGather& g, int tile, int lane) {
  constexpr int kStep = kWarpLanes / kTileTokens;
  static_assert(kStep * kLoadsInFlight == 16);  // divides head_dim
  const BlockSlots& block = g.block;
  const int slot = tile * kTileTokens + lane % kTileTokens;
  const bool exists = slot < block.capacity;
  const bool valid = slot < block.count;
  const TokenPlace place = valid ? g.places[slot] : TokenPlace{nullptr, 0, 0};
  const bool fresh = valid && place.packed == 0;
  const From* source = fresh ? float_key<From>(place, g.head_dim) : nullptr;
  const auto load = [&](int base, From(&loaded)[kLoadsInFlight]) {
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) loaded[i] = source[(base + i * kStep) * kTileTokens];
  };

  Range range = no_range();
  if (__any_sync(kAllLanes, fresh ? 1 : 0) != 0) {
    for (int base = lane / kTileTokens; fresh && base < g.head_dim; base += kStep * kLoadsInFlight) {
      From loaded[kLoadsInFlight];
      load(base, loaded);
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; ++i) range.add(to_float(loaded[i]));
    }
    range.merge(kTileTokens);
  }
  const Quantiser quantiser(fresh ? range.low : 0.0F, fresh ? range.high : 0.0F, levels_of(kBits));
  if (lane < kTileTokens && exists) {
    const cpu::QuantisedHead to = cpu::quantised_head(g.out, block.dtype, block.capacity, g.head_dim);
    to.key_scales[slot] = quantiser.scale_bits.bits;
    to.key_minima[slot] = quantiser.minimum_bits.bits;
    if (valid && !fresh) {
      const auto from = cpu::quantised_head(place.head, block.dtype, block.capacity, g.head_dim);
      to.key_scales[slot] = from.key_scales[place.slot];
      to.key_minima[slot] = from.key_minima[place.slot];
    }
  }

  const CodeColumn target = code_column<kBits>(g.out, block.capacity, slot, g.head_dim);
  const CodeColumn moved =
      valid && !fresh ? code_column<kBits>(place.head, block.capacity, place.slot, g.head_dim) : target;
  for (int base = lane / kTileTokens; base < g.head_dim; base += kStep * kLoadsInFlight) {
    unsigned codes[kLoadsInFlight] = {};
    if (fresh) {
      From loaded[kLoadsInFlight];
      load(base, loaded);
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; ++i) codes[i] = quantiser.code(to_float(loaded[i]));
    } else if (valid) {
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; ++i)
        codes[i] = moved.codes[(base + i * kStep) * moved.row_bytes] >> moved.shift & ((1U << kBits) - 1);
    }
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) {
      // The token half a tile further shares the byte.
      if (kBits == 4) codes[i] |= __shfl_xor_sync(kAllLanes, codes[i], target.row_bytes) << 4;
      if (exists && target.shift == 0)
        target.codes[(base + i * kStep) * target.row_bytes] = static_cast<std::uint8_t>(codes[i]);
    }
  }
}

// Bytes of eight codes.
__device__ __forceinline__ uint2 pack_codes(const unsigned (&codes)[kPiece]) {
  return make_uint2(codes[0] | codes[1] << 8 | codes[2] << 16 | codes[3] << 24,
                    codes[4] | codes[5] << 8 | codes[6] << 16 | codes[7] << 24);
}

constexpr int kValueLanes = 8;                                   // of one token
constexpr int kPairsPerLane = 256 / (2 * kPiece) / kValueLanes;  // of pieces half a head apart

// Codes of one token's values, of which this lane holds pairs of pieces.
template <int kBits>
__device__ __forceinline__ void store_value_codes(const Quantiser& quantiser,
                                                  const float (&x)[kPairsPerLane][2][kPiece], int sub_lane,
                                                  int num_pairs, uint2* row) {
#pragma unroll
  for (int k = 0; k < kPairsPerLane; ++k) {
    const int pair = sub_lane + k * kValueLanes;
    if (pair >= num_pairs) continue;
    unsigned low[kPiece];
    unsigned high[kPiece];
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      low[i] = quantiser.code(x[k][0][i]);
      high[i] = quantiser.code(x[k][1][i]);
      if (kBits == 4) low[i] |= high[i] << 4;
    }
    row[pair] = pack_codes(low);
    if (kBits == 8) row[pair + num_pairs] = pack_codes(high);
  }
}

// Runs a warp over one tile's values, four tokens at a time.
template <int kBits, class From>
__device__ void gather_value_codes(const BlockGather& g, int tile, int lane) {
  const BlockSlots& block = g.block;
  const cpu::QuantisedHead to = cpu::quantised_head(g.out, block.dtype, block.capacity, g.head_dim);
  const int sub_lane = lane % kValueLanes;
  const int num_pairs = g.head_dim / (2 * kPiece);
  const int row_words = g.head_dim * kBits / 64;  // of 8 bytes
  const int last = (tile + 1) * kTileTokens < block.capacity ? (tile + 1) * kTileTokens : block.capacity;
  for (int slot = tile * kTileTokens + lane / kValueLanes; slot < last; slot += kWarpLanes / kValueLanes) {
    const bool valid = slot < block.count;
    const TokenPlace place = valid ? g.places[slot] : TokenPlace{nullptr, 0, 0};
    const bool fresh = valid && place.packed == 0;
    float x[kPairsPerLane][2][kPiece];
    Range range = no_range();
#pragma unroll
    for (int k = 0; k < kPairsPerLane; ++k) {
      const int pair = sub_lane + k * kValueLanes;
      if (!fresh || pair >= num_pairs) continue;
      const From* source = float_value<From>(g, place) + pair * kPiece;
      load_floats(source, x[k][0]);
      load_floats(source + num_pairs * kPiece, x[k][1]);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
        range.add(x[k][0][i]);
        range.add(x[k][1][i]);
      }
    }
    for (int bit = 1; bit < kValueLanes; bit *= 2) range.merge(bit);
    const Quantiser quantiser(fresh ? range.low : 0.0F, fresh ? range.high : 0.0F, levels_of(kBits));
    F16 scale = quantiser.scale_bits;
    F16 minimum = quantiser.minimum_bits;
    auto* row = reinterpret_cast<uint2*>(to.values) + slot * row_words;
    if (fresh) {
      store_value_codes<kBits>(quantiser, x, sub_lane, num_pairs, row);
    } else if (valid) {
      const auto from = cpu::quantised_head(place.head, block.dtype, block.capacity, g.head_dim);
      const auto* moved = reinterpret_cast<const uint2*>(from.values) + place.slot * row_words;
      for (int i = sub_lane; i < row_words; i += kValueLanes) row[i] = moved[i];
      scale.bits = from.value_scales[place.slot];
      minimum.bits = from.value_minima[place.slot];
    } else {
      for (int i = sub_lane; i < row_words; i += kValueLanes) row[i] = make_uint2(0, 0);
    }
    if (sub_lane != 0) continue;
    to.value_scales[slot] = scale.bits;
    to.value_minima[slot] = minimum.bits;
  }
}

// Calls function(Element{}) with the element type of a float dtype.
template <class Function>
__device__ __forceinline__ void with_element(KvDtype dtype, const Function& function) {
  if (dtype == KvDtype::kF32) {
    function(float{});
  } else if (dtype == KvDtype::kF16) {
    function(F16{});
  } else {
    function(BF16{});
  }
}

template <int kBits, class From>
__device__ void gather_codes(const BlockGather& g, From /*element*/) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  for (int unit = warp; unit < 2 * cpu::ceil_div(g.block.count, kTileTokens); unit += kRewriteWarps) {
    unit % 2 == 0 ? gather_key_codes<kBits, From>(g, unit / 2, lane)
                  : gather_value_codes<kBits, From>(g, unit / 2, lane);
  }
}

__device__ void gather_block(const BlockGather& g) {
  const auto thread = static_cast<int>(threadIdx.x);
  with_element(g.from_float, [&](auto from) {
    using From = decltype(from);
    if (g.block.dtype == KvDtype::kInt4) return gather_codes<4>(g, from);
    if (g.block.dtype == KvDtype::kInt8) return gather_codes<8>(g, from);
    with_element(g.block.dtype, [&](auto to) {
      using To = decltype(to);
      gather_float_keys<From, To>(g, thread);
      gather_float_values<From, To>(g, thread);
    });
  });
}

// Finds this thread's token of a block. False: the block holds it in this very place already.
__device__ bool place_token(const KvPool& pool, const RewriteJob& job, int kv_head,
                            const std::int32_t* sources, const BlockSlots& block, TokenPlace* places) {
  const auto i = static_cast<int>(threadIdx.x);
  if (i >= block.count) return false;
  const int source = sources[block.first_slot + i];
  places[i] = find_token(pool, job.from, kv_head, source);
  const int end = block.first_slot + block.count;
  const bool packed = block.first_slot < job.to.num_packed;
  const bool same_layout =
      packed ? end <= job.from.num_packed
             : job.from.num_packed == job.to.num_packed && job.from.format.tail == job.to.format.tail;
  return source != block.first_slot + i || !same_layout || end > job.from.num_cached ||
         job.from.blocks[block.index] != job.to.blocks[block.index];
}

__device__ void store_block(const BlockSlots& block, int head_dim, const std::byte* staged, std::byte* head) {
  const auto copy = [&](int start, int bytes) {
    for_pieces(Crew{static_cast<int>(threadIdx.x), kRewriteThreads}, bytes, [&](int i) {
      reinterpret_cast<uint4*>(head + start)[i] = reinterpret_cast<const uint4*>(staged + start)[i];
    });
  };
  const bool quantised = is_quantised(block.dtype);
  const int row = quantised ? head_dim * cpu::code_bits(block.dtype) / 8
                            : head_dim * static_cast<int>(cpu::element_bytes(block.dtype));
  const int slots = filled_slots(block);
  copy(0, slots * row);
  copy(block.capacity * row, slots * row);
  for (int i = 0; quantised && i < 4; ++i) copy(2 * block.capacity * row + i * block.capacity * 2, slots * 2);
}

constexpr int staged_bytes(int head_dim) {
  return static_cast<int>(cpu::block_head_bytes(head_dim));
}

// Grid: jobs, KV heads. Blocks are filled in order; the next one's tokens are read while this one is written,
// which they never lie in.
__global__ void __launch_bounds__(kRewriteThreads, 2) rewrite_kernel(KvPool pool, const RewriteJob* jobs) {
  const RewriteJob& job = jobs[blockIdx.x];
  const CachedLayer& to = job.to;
  const auto kv_head = static_cast<int>(blockIdx.y);
  const std::int32_t* sources =
      job.sources + static_cast<std::int64_t>(job.num_sets == 1 ? 0 : kv_head) * to.num_cached;
  const int bytes = staged_bytes(pool.head_dim);
  std::byte* staging = dynamic_shared();                              // [2][bytes]
  auto* places = reinterpret_cast<TokenPlace*>(staging + 2 * bytes);  // [2][kMaxBlockTokens]
  const int tail_tokens = to.num_cached - to.num_packed;
  const int num_blocks = cpu::num_packed_blocks(to) +
                         (tail_tokens == 0 ? 0 : cpu::ceil_div(tail_tokens, to.format.tail_tokens_per_block));
  const auto place = [&](int index) {
    return index < num_blocks && place_token(pool, job, kv_head, sources, block_at(to, index),
                                             places + index % 2 * kMaxBlockTokens)
               ? 1
               : 0;
  };
  bool moves = __syncthreads_or(place(0)) != 0;
  for (int index = 0; index < num_blocks; ++index) {
    const BlockSlots block = block_at(to, index);
    std::byte* staged = staging + index % 2 * bytes;
    if (moves) {
      gather_block({block, places + index % 2 * kMaxBlockTokens, job.from.format.tail,
                    job.from.format.tail_tokens_per_block, pool.head_dim, staged});
    }
    const bool next_moves = __syncthreads_or(place(index + 1)) != 0;
    if (moves) store_block(block, pool.head_dim, staged, cpu::head_base(pool, to.blocks[index], kv_head));
    moves = next_moves;
  }
}

}  // namespace

void rewrite(const cpu::KvPool& pool, const RewriteJob* jobs, int num_jobs, Stream stream) {
  KVCRUSH_CHECK(pool.head_dim > 0 && pool.head_dim % kTileTokens == 0 && pool.head_dim <= cpu::kMaxHeadDim);
  if (num_jobs == 0) return;
  const auto shared =
      2 * static_cast<std::size_t>(staged_bytes(pool.head_dim)) + 2 * kMaxBlockTokens * sizeof(TokenPlace);
  launch<rewrite_kernel>(
      LaunchShape{dim3{static_cast<unsigned>(num_jobs), static_cast<unsigned>(pool.num_kv_heads)},
                  dim3{kRewriteThreads}, shared},
      stream, pool, jobs);
}

}  // namespace kvcrush::cuda
