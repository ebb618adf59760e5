// Runs one step's batch: forward pass, then pruning of the sequences that are over budget. Owns everything
// with a tensor in it.
#pragma once

#include <memory>
#include <unordered_map>

#include "engine/model/decoder.h"
#include "engine/model/pruner.h"
#include "engine/model/query_ring.h"

namespace kvcrush {

class ModelRunner {
 public:
  ModelRunner(const ModelConfig& config, ModelWeights weights, const KvLayout& kv_layout, int num_blocks,
              int max_batch_tokens, at::Device device);

  // Logits of the sampling chunks, [rows, vocab] float32 on the CPU, in the order of plan.chunks; valid until
  // the next call.
  at::Tensor run(const StepPlan& plan);
  // Prunes a sequence whose chunk (of the last run) reached a boundary; sequence.num_computed_tokens is up to
  // date.
  PruneReport prune(Sequence& sequence);
  // Drops what is kept for a sequence that has ended or was preempted.
  void forget(SequenceId id) { query_rings_.erase(id); }

 private:
  void record_queries(int layer, const at::Tensor& qkv);

  ModelConfig config_;
  at::Device device_;
  KvStorage kv_;
  Decoder decoder_;
  Pruner pruner_;
  StepBatch batch_;
  std::unordered_map<SequenceId, QueryRing> query_rings_;  // of sequences that compress
};

}  // namespace kvcrush
