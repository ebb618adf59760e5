#include "engine/model/model_runner.h"

#include <ATen/ATen.h>

#include "engine/core/status.h"

namespace kvcrush {

ModelRunner::ModelRunner(const ModelConfig& config, ModelWeights weights, const KvLayout& kv_layout,
                         int num_blocks, int max_batch_tokens, at::Device device)
    : config_(config),
      device_(device),
      kv_(kv_layout, num_blocks, device),
      decoder_(config, std::move(weights), max_batch_tokens, device),
      pruner_(decoder_.heads(), config.num_layers) {}

at::Tensor ModelRunner::run(const StepPlan& plan) {
  build_batch(plan, batch_);
  for (const ScheduledChunk& chunk : plan.chunks) {
    const Sequence& sequence = *chunk.sequence;
    if (!sequence.compression) continue;
    query_rings_.try_emplace(sequence.id, config_.num_layers, sequence.compression->window_tokens,
                             config_.num_heads * config_.head_dim, device_);
  }
  const at::Tensor logits =
      decoder_.forward(batch_, kv_, [this](int layer, const at::Tensor& qkv) { record_queries(layer, qkv); });
  return logits.defined() ? logits.to(at::kCPU) : logits;
}

void ModelRunner::record_queries(int layer, const at::Tensor& qkv) {
  if (query_rings_.empty()) return;
  for (std::size_t i = 0; i < batch_.chunks.size(); ++i) {
    const ScheduledChunk& chunk = batch_.chunks[i];
    if (!chunk.sequence->compression) continue;
    query_rings_.at(chunk.sequence->id)
        .record(layer, qkv, batch_.query_starts[i], chunk.num_tokens, chunk.first_token);
  }
}

PruneReport ModelRunner::prune(Sequence& sequence) {
  return pruner_.prune(sequence, query_rings_.at(sequence.id), kv_);
}

}  // namespace kvcrush
