// The forward pass of a decoder-only transformer over a ragged batch: every sequence's chunk in one go,
// attention straight from the paged cache. What families differ in comes from the configuration.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "engine/model/batch_builder.h"
#include "engine/model/weights.h"

namespace kvcrush {

// Sees a layer's rotated queries, in the first Hq D columns of qkv [T, (Hq + 2 Hkv) D], and what attention
// knew of their softmax, row_stats [T, Hq, 2] (ops::paged_attention); used to observe attention.
using AttentionTap = std::function<void(int layer, const at::Tensor& qkv, const at::Tensor& row_stats)>;

class Decoder {
 public:
  // max_batch_tokens bounds T; activations are allocated once for it.
  Decoder(const ModelConfig& config, ModelWeights weights, int max_batch_tokens, at::Device device);

  const HeadLayout& heads() const { return heads_; }
  // Writes the chunks' K and V into their slots and returns logits [batch.logit_rows.size(), vocab] on the
  // model's device, valid until the next call; undefined when no logits are wanted.
  at::Tensor forward(StepBatch& batch, KvStorage& kv, const AttentionTap& tap);

 private:
  // Activations, [T, ...].
  struct Activations {
    at::Tensor hidden, normed, qkv, attended, row_stats, gate_up, activated;
    at::Tensor delta;  // where outputs are normalised before they are added; else undefined
    Activations first_rows(std::int64_t num_rows) const;
  };
  void attention_block(const LayerWeights& layer, int index, StepBatch& batch, KvStorage& kv,
                       const AttentionTap& tap);
  void mlp_block(const LayerWeights& layer);
  // Adds x w^T to the residual stream, through a norm where there is one.
  void add_projection(const at::Tensor& x, const LinearWeight& weight, const at::Tensor& output_norm);
  at::Tensor compute_logits(const StepBatch& batch);

  ModelConfig config_;
  ModelWeights weights_;
  HeadLayout heads_;
  cpu::AttentionWorkspace attention_workspace_;
  cpu::QuantWorkspace quant_workspace_;
  Activations all_;    // T: max_batch_tokens
  Activations now_;    // the rows of this step, and of the next one if it has as many: views cost allocations
  at::Tensor logits_;  // grows to the most rows seen
};

}  // namespace kvcrush
