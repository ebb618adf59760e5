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
  all_.hidden = rows(config.hidden_size);
  all_.normed = rows(config.hidden_size);
  all_.qkv = rows(heads_.qkv_width());
  all_.attended = rows(static_cast<std::int64_t>(config.num_heads) * config.head_dim);
  all_.row_stats = rows(2 * static_cast<std::int64_t>(config.num_heads));
  all_.gate_up = rows(2 * static_cast<std::int64_t>(config.intermediate_size));
  all_.activated = rows(config.intermediate_size);
  if (config.output_norms) all_.delta = rows(config.hidden_size);
  now_ = all_;
}

Decoder::Activations Decoder::Activations::first_rows(std::int64_t num_rows) const {
  const auto narrow = [num_rows](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.narrow(0, 0, num_rows) : tensor;
  };
  return {.hidden = narrow(hidden),
          .normed = narrow(normed),
          .qkv = narrow(qkv),
          .attended = narrow(attended),
          .row_stats = narrow(row_stats),
          .gate_up = narrow(gate_up),
          .activated = narrow(activated),
          .delta = narrow(delta)};
}

at::Tensor Decoder::forward(StepBatch& batch, KvStorage& kv, const AttentionTap& tap) {
  KVCRUSH_CHECK(batch.num_tokens() > 0 && batch.num_tokens() <= all_.hidden.size(0));
  if (now_.hidden.size(0) != batch.num_tokens()) now_ = all_.first_rows(batch.num_tokens());
  weights_.embedding.lookup(batch.token_ids, now_.hidden);
  if (config_.embedding_scale != 1.0F) now_.hidden.mul_(config_.embedding_scale);
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    attention_block(weights_.layers[layer], layer, batch, kv, tap);
    mlp_block(weights_.layers[layer]);
  }
  return batch.logit_rows.empty() ? at::Tensor() : compute_logits(batch);
}

void Decoder::attention_block(const LayerWeights& layer, int index, StepBatch& batch, KvStorage& kv,
                              const AttentionTap& tap) {
  const std::span<const PagedSequence> sequences = batch.paged_sequences(index);
  ops::rms_norm(now_.hidden, layer.input_norm, config_.rms_norm_eps, now_.normed);
  ops::linear(now_.normed, layer.qkv, quant_workspace_, now_.qkv, /*accumulate=*/false);
  if (layer.q_norm.defined())
    ops::head_norms(now_.qkv, heads_, layer.q_norm, layer.k_norm, config_.rms_norm_eps);
  const bool own_rope = config_.has_window_rope && config_.window_tokens(index) > 0;
  if (config_.is_rotated(index))
    ops::rope(now_.qkv, heads_, own_rope ? batch.positions : batch.rope_rows,
              own_rope ? weights_.window_rope_table : weights_.rope_table);
  ops::hadamard(now_.qkv, heads_.head_dim);
  ops::kv_append(now_.qkv, heads_, sequences, kv);
  ops::paged_attention(now_.qkv, heads_, sequences, kv, attention_workspace_, now_.attended, now_.row_stats);
  tap(index, now_.qkv, now_.row_stats);
  ops::hadamard(now_.attended, heads_.head_dim);
  add_projection(now_.attended, layer.output, layer.attention_output_norm);
}

void Decoder::add_projection(const at::Tensor& x, const LinearWeight& weight, const at::Tensor& output_norm) {
  if (!output_norm.defined())
    return ops::linear(x, weight, quant_workspace_, now_.hidden, /*accumulate=*/true);
  ops::linear(x, weight, quant_workspace_, now_.delta, /*accumulate=*/false);
  ops::rms_norm_add(now_.delta, output_norm, config_.rms_norm_eps, now_.hidden);
}

void Decoder::mlp_block(const LayerWeights& layer) {
  ops::rms_norm(now_.hidden, layer.mlp_norm, config_.rms_norm_eps, now_.normed);
  ops::linear(now_.normed, layer.gate_up, quant_workspace_, now_.gate_up, /*accumulate=*/false);
  ops::gated_mul(now_.gate_up, config_.activation, now_.activated);
  add_projection(now_.activated, layer.down, layer.mlp_output_norm);
}

at::Tensor Decoder::compute_logits(const StepBatch& batch) {
  const auto num_rows = static_cast<std::int64_t>(batch.logit_rows.size());
  at::Tensor normed = now_.normed;
  if (num_rows == batch.num_tokens()) {  // in order: a decode step
    ops::rms_norm(now_.hidden, weights_.final_norm, config_.rms_norm_eps, normed);
  } else {
    const at::Tensor index =
        at::tensor(at::ArrayRef<std::int32_t>(batch.logit_rows), at::kInt).to(now_.hidden.device());
    normed = all_.normed.narrow(0, 0, num_rows);
    ops::rms_norm(now_.hidden.index_select(0, index), weights_.final_norm, config_.rms_norm_eps, normed);
  }
  if (!logits_.defined() || logits_.size(0) < num_rows) {
    logits_ = at::empty({num_rows, config_.vocab_size}, all_.hidden.options());
  }
  at::Tensor logits = logits_.narrow(0, 0, num_rows);
  ops::linear(normed, weights_.lm_head, quant_workspace_, logits, /*accumulate=*/false);
  return logits;
}

}  // namespace kvcrush
