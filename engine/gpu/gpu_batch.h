// A step's batch in device memory: sent once, read by every layer.
#pragma once

#include <vector>

#include "engine/gpu/device_tables.h"
#include "engine/gpu/staging.h"
#include "engine/kernels/cuda/attention_plan.h"
#include "engine/kernels/ops.h"
#include "engine/model/batch_builder.h"
#include "engine/scheduler/scheduler.h"

namespace kvcrush {

// Addresses are the device's, valid until the staging's next start but one.
struct GpuBatch {
  int num_tokens = 0;  // these three with padding
  int num_logit_rows = 0;
  int num_sequences = 0;
  const std::int32_t* token_ids = nullptr;            // [T]
  const std::int32_t* rope_rows = nullptr;            // [T]
  const std::int32_t* sequence_of_token = nullptr;    // [T]
  const std::int32_t* logit_rows = nullptr;           // [num_logit_rows]
  const cpu::AttentionSequence* sequences = nullptr;  // [layers, num_sequences]
  const cuda::RowTile* decode = nullptr;
  const cuda::RowTile* prefill = nullptr;
  cuda::AttentionPlan plan;
  KvDtype widest = KvDtype::kF16;  // whose tiles take the most room
  std::vector<int> query_starts;   // [chunks], on the host

  const cpu::AttentionSequence* sequences_of(int layer) const {
    return sequences + static_cast<std::int64_t>(layer) * num_sequences;
  }
};

// One new token and one row of logits of each sequence.
bool is_plain_decode(const StepPlan& plan);

// Builds batches; keeps its memory from step to step.
class GpuBatchBuilder {
 public:
  // has_windows: of layers, within the context that is served.
  GpuBatchBuilder(const HeadLayout& heads, int num_layers, bool has_windows)
      : heads_(heads), num_layers_(num_layers), has_windows_(has_windows) {}

  // `tables` follow every sequence of the plan. num_padded: of a plan of decodes alone (is_plain_decode),
  // rows and sequences that the batch is padded to; 0: no padding.
  GpuBatch build(const StepPlan& plan, int num_processors, const DeviceTables& tables, Staging& staging,
                 int num_padded = 0);

 private:
  void pad(int num_rows);
  // Into [num_layers, stride].
  void place_sequences(const DeviceTables& tables, std::size_t stride, cpu::AttentionSequence* layers);

  HeadLayout heads_;
  int num_layers_;
  bool has_windows_;
  StepBatch flat_;
  std::vector<std::int32_t> sequence_of_token_;
  std::vector<cpu::AttentionSequence> longest_;  // [chunks]: of the layer that holds the most
};

}  // namespace kvcrush
