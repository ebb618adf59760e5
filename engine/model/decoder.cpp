#include "engine/model/decoder.h"

#include <ATen/ATen.h>

#include "engine/core/status.h"

namespace kvcrush {

Decoder::Decoder(const ModelConfig& config, ModelWeights weights, int max_batch_tokens, at::Device device)
    : config_(config),
      weights_(std::move(weights)),
      heads_{
          .num_heads = config.num_heads, .num_kv_heads = config.num_kv_heads, .head_dim = config.head_dim} {
  attention_workspace_.in_bf16 = weights_.quantized;
  const auto rows = [&](std::int64_t width) {
    return at::empty({max_batch_tokens, width}, at::TensorOptions(at::kFloat).device(device));
  };
  hidden_ = rows(config.hidden_size);
  normed_ = rows(config.hidden_size);
  qkv_ = rows(heads_.qkv_width());
  attended_ = rows(static_cast<std::int64_t>(config.num_heads) * config.head_dim);
  row_stats_ = rows(2 * static_cast<std::int64_t>(config.num_heads));
  gate_up_ = rows(2 * static_cast<std::int64_t>(config.intermediate_size));
  activated_ = rows(config.intermediate_size);
}

at::Tensor Decoder::forward(StepBatch& batch, KvStorage& kv, const AttentionTap& tap) {
  KVCRUSH_CHECK(batch.num_tokens() > 0 && batch.num_tokens() <= hidden_.size(0));
  at::Tensor hidden = hidden_.narrow(0, 0, batch.num_tokens());
  weights_.embedding.lookup(batch.token_ids, hidden);
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    attention_block(weights_.layers[layer], layer, batch, kv, tap);
    mlp_block(weights_.layers[layer], batch.num_tokens());
  }
  return batch.logit_rows.empty() ? at::Tensor() : compute_logits(batch);
}

void Decoder::attention_block(const LayerWeights& layer, int index, StepBatch& batch, KvStorage& kv,
                              const AttentionTap& tap) {
  const std::int64_t num_tokens = batch.num_tokens();
  at::Tensor hidden = hidden_.narrow(0, 0, num_tokens);
  at::Tensor normed = normed_.narrow(0, 0, num_tokens);
  at::Tensor qkv = qkv_.narrow(0, 0, num_tokens);
  at::Tensor attended = attended_.narrow(0, 0, num_tokens);
  at::Tensor row_stats = row_stats_.narrow(0, 0, num_tokens);
  const std::span<const PagedSequence> sequences = batch.paged_sequences(index);

  ops::rms_norm(hidden, layer.input_norm, config_.rms_norm_eps, normed);
  ops::linear(normed, layer.qkv, quant_workspace_, qkv, /*accumulate=*/false);
  ops::rope(qkv, heads_, batch.positions, weights_.rope_table);
  ops::hadamard(qkv, heads_.head_dim);
  ops::kv_append(qkv, heads_, sequences, kv);
  ops::paged_attention(qkv, heads_, sequences, kv, attention_workspace_, attended, row_stats);
  tap(index, qkv, row_stats);
  ops::hadamard(attended, heads_.head_dim);
  ops::linear(attended, layer.output, quant_workspace_, hidden, /*accumulate=*/true);
}

void Decoder::mlp_block(const LayerWeights& layer, std::int64_t num_tokens) {
  at::Tensor hidden = hidden_.narrow(0, 0, num_tokens);
  at::Tensor normed = normed_.narrow(0, 0, num_tokens);
  at::Tensor gate_up = gate_up_.narrow(0, 0, num_tokens);
  at::Tensor activated = activated_.narrow(0, 0, num_tokens);

  ops::rms_norm(hidden, layer.post_attention_norm, config_.rms_norm_eps, normed);
  ops::linear(normed, layer.gate_up, quant_workspace_, gate_up, /*accumulate=*/false);
  ops::silu_mul(gate_up, activated);
  ops::linear(activated, layer.down, quant_workspace_, hidden, /*accumulate=*/true);
}

at::Tensor Decoder::compute_logits(const StepBatch& batch) {
  const auto num_rows = static_cast<std::int64_t>(batch.logit_rows.size());
  const at::Tensor index =
      at::tensor(at::ArrayRef<std::int32_t>(batch.logit_rows), at::kInt).to(hidden_.device());
  const at::Tensor last_hidden = hidden_.index_select(0, index);
  at::Tensor normed = at::empty_like(last_hidden);
  ops::rms_norm(last_hidden, weights_.final_norm, config_.rms_norm_eps, normed);
  if (!logits_.defined() || logits_.size(0) < num_rows) {
    logits_ = at::empty({num_rows, config_.vocab_size}, hidden_.options());
  }
  at::Tensor logits = logits_.narrow(0, 0, num_rows);
  ops::linear(normed, weights_.lm_head, quant_workspace_, logits, /*accumulate=*/false);
  return logits;
}

}  // namespace kvcrush
