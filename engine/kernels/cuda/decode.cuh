// What a staged unit adds to a warp's state.
#pragma once

#include "engine/kernels/cuda/decode_state.cuh"

namespace kvcrush::cuda {

// Scale and minimum of each M-tile's tokens r and r + 8.
template <KvDtype kDtype>
struct TokenScales {
  float scale[kMTiles<kDtype>][2];
  float minimum[kMTiles<kDtype>][2];
};

// first_array: 0 for K's, 2 for V's.
template <int kHeadDim, KvDtype kDtype>
__device__ __forceinline__ TokenScales<kDtype> load_scales(const std::byte* unit, int first_array, int r,
                                                           int width) {
  constexpr int kM = kMTiles<kDtype>;
  TokenScales<kDtype> out;
  const auto* scales = reinterpret_cast<const F16*>(
      unit + tile_of_row<kDtype>(r) * staged_tile_bytes(kDtype, kHeadDim) +
      2 * PackedTiles<kHeadDim, kDtype>::kCodeBytes + first_array * 2 * cpu::kTileTokens);
  // A lane's tokens are four neighbours (int8), or two times four (int4): first those that are rows r.
  constexpr int kFours = 2 * kM / 4;
#pragma unroll
  for (int four = 0; four < kFours; ++four) {
    const int token = token_of_row<kDtype>(r, 0, four == 1, width);
    const uint2 scale = *reinterpret_cast<const uint2*>(scales + token);
    const uint2 minimum = *reinterpret_cast<const uint2*>(scales + cpu::kTileTokens + token);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto half_of = [&](uint2 of) {
        const unsigned pair = i < 2 ? of.x : of.y;
        return to_float(F16{static_cast<std::uint16_t>(i % 2 == 0 ? pair : pair >> 16)});
      };
      const int m = kFours == 2 ? i : i / 2;
      const int h = kFours == 2 ? four : i % 2;
      out.scale[m][h] = half_of(scale);
      out.minimum[m][h] = half_of(minimum);
    }
  }
  return out;
}

// Scores of codes become scores of keys.
template <int kHeadDim, int kColumns, KvDtype kDtype>
__device__ __forceinline__ void scale_scores(const TokenScales<kDtype>& keys,
                                             const DecodeState<kHeadDim, kColumns>& state,
                                             float (&scores)[kMTiles<kDtype>][kColumns][4]) {
  for_scores<kMTiles<kDtype>, kColumns>([&](int m, int c, int i) {
    const float scale = keys.scale[m][i / 2] / code_unit<kDtype>(i >= 2);
    scores[m][c][i] = scores[m][c][i] * scale + keys.minimum[m][i / 2] * state.query_sum[c][i % 2];
  });
}

// Probabilities as the operand of with_values(), V's scales in them; V's minima go to state.offset.
template <int kHeadDim, int kColumns, KvDtype kDtype>
__device__ __forceinline__ void scale_probabilities(const TokenScales<kDtype>& values,
                                                    float (&p)[kMTiles<kDtype>][kColumns][4],
                                                    DecodeState<kHeadDim, kColumns>& state) {
  for_scores<kMTiles<kDtype>, kColumns>([&](int m, int c, int i) {
    state.offset[c][i % 2] += p[m][c][i] * values.minimum[m][i / 2];
    p[m][c][i] *= values.scale[m][i / 2];
  });
}

// Outputs of codes become outputs of values: once, when a warp comes to its last packed unit.
template <KvDtype kDtype, int kHeadDim, int kColumns>
__device__ __forceinline__ void leave_codes(DecodeState<kHeadDim, kColumns>& state) {
#pragma unroll
  for (int j = 0; j < kHeadDim / 16; ++j) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      for (int i = 0; i < 4; ++i) state.out[j][c][i] /= code_unit<kDtype>(i >= 2);
    }
  }
}

// One staged unit: `own` is the place of this lane's tile as rows of K, `values_of` of its tile as columns of
// V.
template <int kHeadDim, int kColumns, KvDtype kDtype>
__device__ __forceinline__ void attend_unit(const AttentionSequence& sequence,
                                            const SeenSlots<kColumns>& seen,
                                            const DecodeQueries<kHeadDim, kColumns>& queries,
                                            const std::byte* unit, const TilePlace& own,
                                            const TilePlace& values_of, int lane,
                                            DecodeState<kHeadDim, kColumns>& state) {
  constexpr int kM = kMTiles<kDtype>;
  const int r = lane / 4;
  const bool absent = !has_rows<kDtype>(r, own.width);
  const int scaled = absent ? r - 4 / unit_tiles(kDtype) : r;  // whose scales are numbers at least
  float scores[kM][kColumns][4] = {};
  const int row_bytes = own.width * cpu::code_bits(kDtype) / 8;
  // Codes take so many instructions to widen that an unrolled loop would not stay in the instruction cache.
#pragma unroll(is_quantised(kDtype) ? 4 : kHeadDim / 16)
  for (int s = 0; s < kHeadDim / 16; ++s) {
    with_keys<kHeadDim, kDtype>(unit, s, row_bytes, lane, [&](int m, const unsigned(&a)[4]) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const uint2 b = queries[s][c][lane];
        mma_f16(scores[m][c], a, b.x, b.y);
      }
    });
  }
  // Nearly every unit is full, older than all queries, and in their windows.
  const bool all_seen = own.count == own.width && own.first_slot >= seen.common_first &&
                        own.first_slot + own.width <= seen.common_end;
  const bool plain = __all_sync(kAllLanes, all_seen ? 1 : 0) != 0;
  int slots[kM][2];
  if (!plain) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      for (int h = 0; h < 2; ++h) {
        const int token = token_of_row<kDtype>(r, m, h == 1, own.width);
        slots[m][h] = !absent && token < own.count ? own.first_slot + token : kNoSlot;
      }
    }
  }
  if constexpr (is_quantised(kDtype))
    scale_scores(load_scales<kHeadDim, kDtype>(unit, 0, scaled, own.width), state, scores);
  if (!plain) hide_unseen(sequence, seen, slots, lane, state, scores);
  soften(absent, scores, state);
  if constexpr (is_quantised(kDtype)) {
    TokenScales<kDtype> values = load_scales<kHeadDim, kDtype>(unit, 2, scaled, own.width);
    if (!plain) {  // of no token they are anything, NaN among it
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        for (int h = 0; h < 2; ++h) {
          if (slots[m][h] == kNoSlot) values.scale[m][h] = values.minimum[m][h] = 0;
        }
      }
    }
    scale_probabilities(values, scores, state);
  }
  unsigned b[kM][kColumns][2];
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      for (int h = 0; h < 2; ++h)
        b[m][c][h] = transpose_matrix(pack_f16(scores[m][c][2 * h], scores[m][c][2 * h + 1]));
    }
  }
  const int q = lane % 4;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    const int tokens[4] = {token_of_row<kDtype>(2 * q, m, false, values_of.width),
                           token_of_row<kDtype>(2 * q + 1, m, false, values_of.width),
                           token_of_row<kDtype>(2 * q, m, true, values_of.width),
                           token_of_row<kDtype>(2 * q + 1, m, true, values_of.width)};
    with_values<kHeadDim, kDtype>(unit, tile_of_row<kDtype>(2 * q), tokens, lane,
                                  [&](int j, const unsigned(&a)[4]) {
#pragma unroll
                                    for (int c = 0; c < kColumns; ++c)
                                      mma_f16(state.out[j][c], a, b[m][c][0], b[m][c][1]);
                                  });
  }
}

}  // namespace kvcrush::cuda
