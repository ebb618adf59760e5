// What pruning must know of a sequence beside its KV cache: the newest rotated queries with the statistics of
// their softmax, and, for h2o, how much each cached slot was attended to so far. Kept only for sequences that
// prune by attention. Rings go by logical position, so it does not matter how the prompt was cut into chunks.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "engine/kernels/cpu/aligned.h"
#include "engine/kernels/ops.h"
#include "engine/model/attention_sums.h"
#include "engine/model/observation_needs.h"

namespace kvcrush {

class Observation {
 public:
  Observation(const HeadLayout& heads, int num_layers, const ObservationNeeds& needs, at::Device device);

  const ObservationNeeds& needs() const { return needs_; }
  // A copy for a sequence that goes on from here and needs no more than this one; the ring keeps its size.
  Observation clone_for(const ObservationNeeds& needs) const;
  // Rows [first_row, first_row + num_tokens) of qkv and row_stats hold logical positions [first_position,
  // ...).
  void record(int layer, const at::Tensor& qkv, const at::Tensor& row_stats, int first_row, int num_tokens,
              int first_position);
  // Adds what these rows' queries attended to; `cache` holds their tokens.
  void accumulate(int layer, const at::Tensor& qkv, const at::Tensor& row_stats, int first_row,
                  int num_tokens, const cpu::CachedLayer& cache, const KvStorage& kv);

  // Appends the `count` newest positions before `end_position`, oldest first (CPU only).
  void add_query_rows(int layer, int count, int end_position, std::vector<const float*>& rows) const;
  void add_stat_rows(int layer, int count, int end_position, std::vector<const float*>& rows) const;
  // The same queries as a tensor [count, Hq D], on any device.
  at::Tensor gather_queries(int layer, int count, int end_position) const;
  at::Tensor gather_stats(int layer, int count, int end_position) const;  // [count, Hq 2]

  // Follows slots that left a layer's window; num_dropped: all that did since the sequence began.
  void drop_sums(int layer, int num_dropped);
  const AttentionSums& attention_sums(int layer) const { return sums_[static_cast<std::size_t>(layer)]; }
  // The sums follow their tokens.
  void keep_sums(int layer, std::span<const int> kept, int num_sets, int num_kept) {
    sums_[static_cast<std::size_t>(layer)].keep(kept, num_sets, num_kept);
  }

 private:
  const float* ring_row(const at::Tensor& ring, int layer, int position) const;
  at::Tensor gather(const at::Tensor& ring, int layer, int count, int end_position) const;

  HeadLayout heads_;
  ObservationNeeds needs_;
  at::Tensor queries_;               // [num_layers, ring rows, Hq D]; position p lives in row p % ring rows
  at::Tensor stats_;                 // [num_layers, ring rows, Hq 2]
  std::vector<AttentionSums> sums_;  // [num_layers]
  std::vector<int> num_dropped_;     // [num_layers], of their slots
  // Reused from step to step.
  cpu::AlignedFloats scratch_;  // per thread
  std::vector<const float*> query_rows_, stat_rows_;
};

}  // namespace kvcrush
