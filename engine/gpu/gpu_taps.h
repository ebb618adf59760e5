// What a step's attention leaves behind for pruning: queries copied into rings, and, for h2o, sums. Staged
// before the step, started layer by layer.
#pragma once

#include <ATen/core/Tensor.h>

#include <unordered_map>
#include <vector>

#include "engine/gpu/gpu_batch.h"
#include "engine/gpu/gpu_observation.h"
#include "engine/kernels/cuda/observe.h"

namespace kvcrush {

class GpuTaps {
 public:
  GpuTaps(const HeadLayout& heads, int num_layers, GpuRuntime& runtime)
      : heads_(heads), num_layers_(num_layers), runtime_(runtime) {}

  // qkv and row_stats: where every layer's attention reads queries and leaves its statistics. num_padded: of
  // the batch (GpuBatchBuilder).
  void prepare(const GpuBatch& batch, const StepPlan& plan, const DeviceTables& tables,
               std::unordered_map<SequenceId, GpuObservation>& observations, cuda::ActivationType activations,
               const at::Tensor& qkv, const at::Tensor& row_stats, Staging& staging, int num_padded);
  void launch(int layer, const cpu::KvPool& pool) const;
  const cuda::RecordCall& record() const { return record_; }   // without a layer
  const cuda::ProbabilityCall& sums() const { return sums_; }  // with the first layer's jobs

 private:
  HeadLayout heads_;
  int num_layers_;
  GpuRuntime& runtime_;
  cuda::RecordCall record_;     // without a layer
  cuda::ProbabilityCall sums_;  // jobs: [num_layers, num_jobs]
};

}  // namespace kvcrush
