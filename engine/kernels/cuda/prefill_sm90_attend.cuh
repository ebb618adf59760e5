// The warpgroups of the Hopper prefill kernel that multiply, 64 rows each, and the kernel. While a stage's
// scores are on their way through the tensor cores, the stage before meets its values; while one warpgroup
// takes the softmax, another multiplies.
#pragma once

#include <algorithm>

#include "engine/kernels/cuda/cuda_kernels.h"
#include "engine/kernels/cuda/launch.h"
#include "engine/kernels/cuda/prefill_sm90_load.cuh"
#include "engine/kernels/cuda/prefill_sm90_rows.cuh"

namespace kvcrush::cuda {

template <class Shape, class Activation>
class Consumer {
  static constexpr int kHeadDim = Shape::kHeadDim;
  static constexpr int kSyncNames = 1;                      // of warpgroups that meet
  static constexpr int kTurnNames = 1 + Shape::kConsumers;  // of warpgroups whose turn it is
  static constexpr bool kQueriesAhead = kHeadDim * sizeof(Activation) <= 256 && Shape::kTokens <= 128 &&
                                        Shape::kConsumers == 2;  // there are registers for them

 public:
  __device__ __forceinline__ Consumer(const PrefillParams<Activation>& p, const PrefillShared<Shape>& shared,
                                      int group)
      : p_(p),
        shared_(shared),
        group_(group),
        lane_(static_cast<int>(threadIdx.x) % kWarpLanes),
        row_(group * kGroupRows + static_cast<int>(threadIdx.x) % kWarpgroup / kWarpLanes * 16 + lane_ / 4),
        scale_log2_(p.scale * 1.44269504F),
        queries_(QueryLayout<kHeadDim>::descriptor(shared.address + shared.queries_at(group))) {}

  __device__ __forceinline__ void run() {
    if (Shape::kTakeTurns && group_ == Shape::kConsumers - 1) pass_turn();
    QueryRows<Activation, kHeadDim> pending;
    int index = p_.work.item(0);
    RowTile tile = p_.work.row_tiles[index / p_.work.pool.num_kv_heads];
    pending.load(p_, item_of(index, tile), group_ * kGroupRows);
    for (int round = 0;;) {
      const PrefillItem item = item_of(index, tile);
      const cpu::AttentionSequence& sequence = p_.work.sequences[tile.sequence];
      index = p_.work.item(++round);
      const bool last = index >= p_.work.num_items;
      if (!last) tile = p_.work.row_tiles[index / p_.work.pool.num_kv_heads];
      named_sync(kSyncNames + group_, kWarpgroup);  // the queries before are done with
      pending.store(shared_.base + shared_.queries_at(group_));
      fence_for_wgmma();
      named_sync(kSyncNames + group_, kWarpgroup);
      attend(item, Visibility(p_.work, sequence, item, group_ * kGroupRows, row_));
      if (kQueriesAhead && !last) pending.load(p_, item_of(index, tile), group_ * kGroupRows);
      end_values();
      write(item);
      if (last) break;
      if (!kQueriesAhead) pending.load(p_, item_of(index, tile), group_ * kGroupRows);
    }
    if (Shape::kTakeTurns && group_ == 0) await_turn();  // what the last one passed on
  }

 private:
  __device__ __forceinline__ PrefillItem item_of(int index, const RowTile& tile) const {
    return PrefillItem(p_.work, tile, index, Shape::kRows);
  }
  __device__ __forceinline__ void await_turn() const { named_sync(kTurnNames + group_, 2 * kWarpgroup); }
  __device__ __forceinline__ void pass_turn() const {
    named_arrive(kTurnNames + (group_ + 1) % Shape::kConsumers, 2 * kWarpgroup);
  }
  __device__ __forceinline__ void await(KvPart stream, unsigned unit) const {
    barrier_wait(shared_.full(stream, unit % Shape::kStages), unit / Shape::kStages % 2);
  }
  __device__ __forceinline__ void release(KvPart stream, unsigned unit) const {
    if (lane_ == 0) barrier_arrive(shared_.empty(stream, unit % Shape::kStages));
  }

  // All stages but for the last one's values, which are on their way.
  __device__ __forceinline__ void attend(const PrefillItem& item, const Visibility& visibility) {
    softmax_ = RowSoftmax();
#pragma unroll
    for (float& x : out_) x = 0;
    await(KvPart::kKeys, unit_);
    start_scores();
    wgmma_wait<0>();
    hold(scores_);
    release(KvPart::kKeys, unit_);
    if (visibility.first_hidden < Shape::kTokens) hide(visibility, 0);
    softmax_.weigh(scores_, scale_log2_);
    pack_weights();
    ++unit_;
    int first = Shape::kTokens;
    const int plain = min(item.num_columns, visibility.first_hidden - Shape::kTokens + 1);
    for (; first < plain; first += Shape::kTokens) step<false>(visibility, first);
    for (; first < item.num_columns; first += Shape::kTokens) step<true>(visibility, first);
    await(KvPart::kValues, unit_ - 1);
    start_values(unit_ - 1);
  }
  __device__ __forceinline__ void end_values() {
    wgmma_wait<0>();
    hold(out_);
    hold(weights_);
    release(KvPart::kValues, unit_ - 1);
  }

  // Scores of the stage at column `first`, and values of the one before.
  template <bool kMasked>
  __device__ __forceinline__ void step(const Visibility& visibility, int first) {
    await(KvPart::kKeys, unit_);
    if constexpr (Shape::kTakeTurns) await_turn();
    start_scores();
    await(KvPart::kValues, unit_ - 1);
    start_values(unit_ - 1);
    if constexpr (Shape::kTakeTurns) pass_turn();
    wgmma_wait<1>();
    hold(scores_);
    release(KvPart::kKeys, unit_);
    if constexpr (kMasked) hide(visibility, first);
    const float2 shrink = softmax_.weigh(scores_, scale_log2_);
    // The sums are never negative, but only known at the end: the compiler must not wait for the
    // values before.
    const bool rescale = shrink.x != 1 || shrink.y != 1 || softmax_.sum[0] < 0 || softmax_.sum[1] < 0;
    if (__any_sync(kAllLanes, rescale)) {
      wgmma_wait<0>();
      hold(out_);
#pragma unroll
      for (int i = 0; i < kHeadDim / 2; ++i) out_[i] *= i % 4 < 2 ? shrink.x : shrink.y;
    }
    end_values();
    pack_weights();
    ++unit_;
  }

  __device__ __forceinline__ void start_scores() {
    const std::uint64_t keys =
        Shape::Keys::descriptor(shared_.address + shared_.stage_at(KvPart::kKeys, unit_ % Shape::kStages));
    wgmma_fence();
    wgmma_shared<false>(scores_, queries_, keys);
#pragma unroll
    for (int i = 1; i < kHeadDim / 16; ++i)
      wgmma_shared<true>(scores_, advanced(queries_, QueryLayout<kHeadDim>::step_bytes(i)),
                         advanced(keys, Shape::Keys::step_bytes(i)));
    wgmma_commit();
  }
  __device__ __forceinline__ void start_values(unsigned unit) {
    const std::uint64_t values =
        Shape::Values::descriptor(shared_.address + shared_.stage_at(KvPart::kValues, unit % Shape::kStages));
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < Shape::kTiles; ++i)
      wgmma_registers(out_, weights_[i], advanced(values, i * Shape::Values::kTileBytes));
    wgmma_commit();
  }
  __device__ __forceinline__ void pack_weights() {
#pragma unroll
    for (int i = 0; i < Shape::kTiles; ++i) {
      for (int j = 0; j < 4; ++j)
        weights_[i][j] = pack_f16(scores_[8 * i + 2 * j], scores_[8 * i + 2 * j + 1]);
    }
  }

  // Scores that a row must not see become minus infinity.
  __device__ __forceinline__ void hide(const Visibility& v, int first) {
    const int own = first + lane_ % 4 * 2;  // column of this thread's first score
    const bool gap =
        v.num_packed < v.tail_column && v.num_packed < first + Shape::kTokens && v.tail_column > first;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int limit = v.own_column[r] - own;
      const int gap_first = gap ? v.num_packed - own : Shape::kTokens;
      const unsigned gap_width = gap ? v.tail_column - v.num_packed : 0;
#pragma unroll
      for (int i = 0; i < Shape::kTokens / 4; ++i) {
        const int column = i / 2 * 8 + i % 2;
        float& score = scores_[i / 2 * 4 + 2 * r + i % 2];
        bool hidden = column > limit;
        if constexpr (Shape::kQuantised) hidden |= static_cast<unsigned>(column - gap_first) < gap_width;
        score = hidden ? minus_infinity() : score;
      }
    }
    if (v.num_branches > 1) hide_branches(v, own);
  }
  // Seldom run: a loop finds what to hide, for unrolled it would be most of the kernel's code.
  __device__ __forceinline__ void hide_branches(const Visibility& v, int own) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      unsigned hidden[(Shape::kTokens + 127) / 128] = {};
#pragma unroll
      for (int part = 0; part < Shape::kTokens; part += 128) {
#pragma unroll 1
        for (int i = 0; i < 32; ++i)
          hidden[part / 128] |= static_cast<unsigned>(v.other_branch(own + part + i / 2 * 8 + i % 2, r)) << i;
      }
#pragma unroll
      for (int i = 0; i < Shape::kTokens / 4; ++i) {
        float& score = scores_[i / 2 * 4 + 2 * r + i % 2];
        score = hidden[i / 32] >> i % 32 & 1 ? minus_infinity() : score;
      }
    }
  }

  __device__ __forceinline__ void write(const PrefillItem& item) {
    softmax_.finish();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = row_ + 8 * r;
      const std::int64_t out_row =
          static_cast<std::int64_t>(item.first_token + row / p_.work.group) * p_.num_heads +
          item.kv_head * p_.work.group + row % p_.work.group;
      const bool real = row < item.num_rows;
      write_row(p_.out + out_row * kHeadDim, r, 1 / softmax_.sum[r], real);
      if (!real || lane_ % 4 != 0) continue;
      const float scale_top = (softmax_.base[r] - softmax_.top[r]) * scale_log2_;
      p_.row_stats[2 * out_row] = softmax_.top[r] * p_.scale;
      p_.row_stats[2 * out_row + 1] = 1 / (softmax_.sum[r] * exp2_fast(scale_top));
    }
  }
  // Four lanes have two channels of every 8 of a row; 16-bit outputs go to one lane 8 at a time.
  __device__ __forceinline__ void write_row(Activation* to, int r, float inverse, bool real) {
    const int quad = lane_ % 4;
    if constexpr (sizeof(Activation) == 2) {
#pragma unroll
      for (int i = 0; i < kHeadDim / 32; ++i) {
        unsigned words[4];
        for (int j = 0; j < 4; ++j) {
          const float* pair = out_ + (4 * i + j) * 4 + 2 * r;
          words[j] = pack_pair(pair[0] * inverse, pair[1] * inverse, to);
        }
        transpose_quad(words, quad);
        if (real)
          *reinterpret_cast<uint4*>(to + 32 * i + 8 * quad) =
              make_uint4(words[0], words[1], words[2], words[3]);
      }
    } else {
      if (!real) return;
#pragma unroll
      for (int i = 0; i < kHeadDim / 8; ++i)
        *reinterpret_cast<float2*>(to + 8 * i + 2 * quad) =
            make_float2(out_[4 * i + 2 * r] * inverse, out_[4 * i + 2 * r + 1] * inverse);
    }
  }

  const PrefillParams<Activation>& p_;
  PrefillShared<Shape> shared_;
  int group_;
  int lane_;
  int row_;  // the first of this thread's two
  float scale_log2_;
  std::uint64_t queries_;
  unsigned unit_ = 0;  // stages so far
  RowSoftmax softmax_;
  float scores_[Shape::kTokens / 2];
  unsigned weights_[Shape::kTiles][4];
  float out_[kHeadDim / 2];
};

template <class Shape, class Activation>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    prefill_kernel(const __grid_constant__ PrefillParams<Activation> p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  const auto shared = PrefillShared<Shape>::of_block();
  if (threadIdx.x == 0) shared.init_barriers();
  __syncthreads();
  const int group = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  if (group == 0) {
    shrink_registers<Shape::kLoaderRegisters>();
    const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpLanes, 0);
    warp < 2 ? Loader<Shape, KvPart::kKeys>(p.work, shared, warp).run()
             : Loader<Shape, KvPart::kValues>(p.work, shared, warp - 2).run();
  } else {
    grow_registers<Shape::kConsumerRegisters>();
    Consumer<Shape, Activation>(p, shared, group - 1).run();
  }
#else
  __trap();  // the host asks for this kernel on Hopper only
#endif
}

}  // namespace kvcrush::cuda
