// What pruning must know of a sequence beside its KV cache, in device memory: see model/observation.h.
#pragma once

#include <ATen/core/Tensor.h>

#include "engine/gpu/gpu_runtime.h"
#include "engine/kernels/ops.h"
#include "engine/model/observation_needs.h"

namespace kvcrush {

class GpuObservation {
 public:
  GpuObservation(const HeadLayout& heads, int num_layers, const ObservationNeeds& needs, at::Device device);

  const ObservationNeeds& needs() const { return needs_; }
  // A copy for a sequence that goes on from here and needs no more than this one; the ring keeps its size.
  GpuObservation clone_for(const ObservationNeeds& needs) const;

  int ring_rows() const { return needs_.ring_rows(); }
  // Rings of one layer, by position modulo ring_rows().
  at::Tensor queries(int layer) const { return queries_[layer]; }  // float16 [ring_rows, Hq D]
  at::Tensor stats(int layer) const { return stats_[layer]; }      // float32 [ring_rows, Hq, 2]
  // What each cached slot was attended to so far, float32 [Hq, >= num_slots]; slots that are new are zero.
  at::Tensor sums(int layer, int num_slots);
  // Sums follow slots that left a layer's window; num_dropped: all that did since the sequence began.
  void drop_sums(int layer, int num_dropped);
  // The sums follow their tokens: slot i of head h takes what slot kept[set of h][i] has. kept: int32
  // [num_sets, num_kept] on the device.
  void keep_sums(int layer, const at::Tensor& kept);

 private:
  HeadLayout heads_;
  ObservationNeeds needs_;
  at::Tensor queries_;            // [num_layers, ring_rows, Hq D]
  at::Tensor stats_;              // [num_layers, ring_rows, Hq, 2]
  std::vector<int> num_dropped_;  // [num_layers], of their slots
  std::vector<at::Tensor> sums_;  // by layer, [Hq, capacity]; slots that no token has had yet are zero
};

}  // namespace kvcrush
