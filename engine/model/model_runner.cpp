#include "engine/model/model_runner.h"

#include <ATen/ATen.h>

#include <algorithm>

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
  fork_reports_.clear();
  for (const Fork& one : plan.forks) fork(one);
  if (plan.chunks.empty()) return {};
  build_batch(plan, batch_);
  for (const ScheduledChunk& chunk : plan.chunks) prepare_observation(*chunk.sequence);
  const at::Tensor logits =
      decoder_.forward(batch_, kv_, [this](int layer, const at::Tensor& qkv, const at::Tensor& row_stats) {
        observe(layer, qkv, row_stats);
      });
  return logits.defined() ? logits.to(at::kCPU) : logits;
}

void ModelRunner::prepare_observation(const Sequence& sequence) {
  if (observations_.contains(sequence.id)) return;
  const auto trunk = trunk_needs_.find(sequence.id);
  const ObservationNeeds needs = trunk == trunk_needs_.end() ? needs_of(sequence.policy) : trunk->second;
  if (needs.any())
    observations_.try_emplace(sequence.id, decoder_.heads(), config_.num_layers, needs, device_);
}

void ModelRunner::observe(int layer, const at::Tensor& qkv, const at::Tensor& row_stats) {
  if (observations_.empty()) return;
  for (std::size_t i = 0; i < batch_.chunks.size(); ++i) {
    const ScheduledChunk& chunk = batch_.chunks[i];
    const Sequence& sequence = *chunk.sequence;
    // A trunk shows its children the prompt, not the continuation that it runs over.
    if (sequence.kind == SequenceKind::kTrunk && chunk.first_token >= sequence.num_prompt_tokens &&
        !chunk.is_lookahead())
      continue;
    const auto it = observations_.find(sequence.id);
    if (it == observations_.end()) continue;
    Observation& observation = it->second;
    if (observation.needs().num_queries > 0 && !chunk.is_lookahead())
      observation.record(layer, qkv, row_stats, batch_.query_starts[i], chunk.num_tokens, chunk.first_token);
    for (int b = 0; observation.needs().num_queries > 0 && b < chunk.num_branches;
         ++b)  // one after the other
      observation.record(layer, qkv, row_stats, batch_.query_starts[i] + b, 1,
                         chunk.first_token + b * sequence.lookahead.shape.tokens);
    if (observation.needs().attention_sums) observation.drop_sums(layer, sequence.cache.num_dropped(layer));
    if (observation.needs().attention_sums && !chunk.is_lookahead())
      observation.accumulate(layer, qkv, row_stats, batch_.query_starts[i], chunk.num_tokens,
                             sequence.cache.layer(layer).cached(), kv_);
  }
}

PruneReport ModelRunner::settle(Sequence& sequence, const Settling& settling) {
  const auto it = observations_.find(sequence.id);
  if (it != observations_.end()) drop_sums(sequence, it->second);
  return pruner_.settle(sequence, settling, it == observations_.end() ? nullptr : &it->second, kv_);
}

void ModelRunner::drop_sums(const Sequence& sequence, Observation& observation) const {
  for (int layer = 0; layer < config_.num_layers; ++layer)
    observation.drop_sums(layer, sequence.cache.num_dropped(layer));
}

void ModelRunner::fork(const Fork& fork) {
  const auto trunk = observations_.find(fork.trunk->id);
  if (trunk != observations_.end()) drop_sums(*fork.trunk, trunk->second);
  const Observation* seen = trunk == observations_.end() ? nullptr : &trunk->second;
  Observation* child_sums = nullptr;
  if (needs_of(fork.child->policy).any()) {
    KVCRUSH_CHECK(seen != nullptr);
    Observation& copy =
        observations_.insert_or_assign(fork.child->id, seen->clone_for(needs_of(fork.child->policy)))
            .first->second;
    if (copy.needs().attention_sums) child_sums = &copy;
  }
  fork_reports_.push_back(
      pruner_.fork(*fork.trunk, *fork.child, seen, child_sums, memos_[fork.trunk->id], kv_));
}

void ModelRunner::forget(SequenceId id, bool for_good) {
  observations_.erase(id);
  swaps_.forget(id);
  memos_.erase(id);
  if (for_good) trunk_needs_.erase(id);
}

}  // namespace kvcrush
