#include "engine/gpu/gpu_batch.h"

#include <algorithm>

#include "engine/kernels/cuda/cuda_kernels.h"

namespace kvcrush {

namespace {

// By the room that a tile takes in shared memory; float16 needs none beside the tile itself.
int tile_rank(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kF16:
      return 0;
    case KvDtype::kInt4:
      return 1;
    case KvDtype::kInt8:
      return 2;
    case KvDtype::kBF16:
      return 3;
    case KvDtype::kF32:
      break;
  }
  return 4;
}

KvDtype widest_dtype(const StepPlan& plan) {
  KvDtype widest = KvDtype::kF16;
  for (const ScheduledChunk& chunk : plan.chunks) {
    const cpu::KvFormat& format = chunk.sequence->cache.format();
    for (const KvDtype dtype :
         {format.tail, format.packed_tokens_per_block > 0 ? format.packed : format.tail}) {
      if (tile_rank(dtype) > tile_rank(widest)) widest = dtype;
    }
  }
  return widest;
}

}  // namespace

bool is_plain_decode(const StepPlan& plan) {
  return std::all_of(plan.chunks.begin(), plan.chunks.end(), [](const ScheduledChunk& chunk) {
    return chunk.num_tokens == 1 && chunk.num_logit_rows == 1 && !chunk.is_lookahead();
  });
}

// Rows of nobody: they go through the projections, and leave nothing in a cache.
void GpuBatchBuilder::pad(int num_rows) {
  for (int row = flat_.num_tokens(); row < num_rows; ++row) {
    flat_.token_ids.push_back(0);
    flat_.rope_rows.push_back(0);
    flat_.logit_rows.push_back(row);
    sequence_of_token_.push_back(-1);
  }
}

void GpuBatchBuilder::place_sequences(const DeviceTables& tables, std::size_t stride,
                                      cpu::AttentionSequence* layers) {
  const std::span<const PagedSequence> paged =
      flat_.paged_sequences(0);  // but for the tables alike in all layers
  longest_.clear();
  sequence_of_token_.clear();
  for (std::size_t i = 0; i < paged.size(); ++i) {
    sequence_of_token_.insert(sequence_of_token_.end(), static_cast<std::size_t>(flat_.chunks[i].num_tokens),
                              static_cast<std::int32_t>(i));
    const int longest = tables.fill_layers(*flat_.chunks[i].sequence, paged[i], layers + i, stride);
    longest_.push_back(layers[i + static_cast<std::size_t>(longest) * stride]);
  }
  const std::size_t end = static_cast<std::size_t>(num_layers_) * stride;
  for (std::size_t i = paged.size(); i < stride; ++i) {
    for (std::size_t at = i; at < end; at += stride) layers[at] = {};
  }
}

GpuBatch GpuBatchBuilder::build(const StepPlan& plan, int num_processors, const DeviceTables& tables,
                                Staging& staging, int num_padded) {
  build_batch(plan, flat_);
  const std::size_t num_sequences = std::max(flat_.chunks.size(), static_cast<std::size_t>(num_padded));
  const Staging::Room<cpu::AttentionSequence> sequences =
      staging.room_for<cpu::AttentionSequence>(static_cast<std::size_t>(num_layers_) * num_sequences);
  place_sequences(tables, num_sequences, sequences.host);
  pad(num_padded);
  GpuBatch batch;
  batch.num_tokens = static_cast<int>(flat_.token_ids.size());
  batch.num_logit_rows = static_cast<int>(flat_.logit_rows.size());
  batch.num_sequences = static_cast<int>(num_sequences);
  batch.token_ids = staging.add(flat_.token_ids);
  batch.rope_rows = staging.add(flat_.rope_rows);
  batch.sequence_of_token = staging.add(sequence_of_token_);
  batch.logit_rows = staging.add(flat_.logit_rows);
  batch.sequences = sequences.device;
  batch.widest = widest_dtype(plan);
  batch.plan = cuda::plan_attention(
      longest_, heads_.num_heads / heads_.num_kv_heads, heads_.num_kv_heads, heads_.head_dim, num_processors,
      cuda::prefill_rows(heads_.head_dim, batch.widest, has_windows_), num_padded);
  batch.decode = staging.add(batch.plan.decode);
  batch.prefill = staging.add(batch.plan.prefill);
  batch.query_starts = flat_.query_starts;
  return batch;
}

}  // namespace kvcrush
