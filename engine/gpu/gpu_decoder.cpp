#include "engine/gpu/gpu_decoder.h"

#include <ATen/ATen.h>

#include <cmath>

#include "engine/core/status.h"
#include "engine/kernels/cuda/elementwise.h"
#include "engine/kernels/cuda/skinny.h"

namespace kvcrush {

namespace {

cuda::ActivationType activation_type(at::ScalarType type) {
  if (type == at::kFloat) return cuda::ActivationType::kF32;
  return type == at::kHalf ? cuda::ActivationType::kF16 : cuda::ActivationType::kBF16;
}

const float* floats_or_null(const at::Tensor& values) {
  return values.defined() ? values.const_data_ptr<float>() : nullptr;
}

}  // namespace

GpuDecoder::GpuDecoder(const ModelConfig& config, GpuWeights weights, at::ScalarType type,
                       int max_batch_tokens, GpuRuntime& runtime)
    : config_(config),
      weights_(std::move(weights)),
      heads_{.num_heads = config.num_heads, .num_kv_heads = config.num_kv_heads, .head_dim = config.head_dim},
      activations_(activation_type(type)),
      runtime_(runtime) {
  const auto rows = [&](std::int64_t width, at::ScalarType of) {
    return at::empty({max_batch_tokens, width}, at::TensorOptions(of).device(runtime.device()));
  };
  hidden_ = rows(config.hidden_size, at::kFloat);
  row_stats_ = rows(2 * static_cast<std::int64_t>(config.num_heads), at::kFloat);
  normed_ = rows(config.hidden_size, type);
  qkv_ = rows(heads_.qkv_width(), type);
  attended_ = rows(static_cast<std::int64_t>(config.num_heads) * config.head_dim, type);
  delta_ = rows(config.hidden_size, type);
  gate_up_ = rows(2 * static_cast<std::int64_t>(config.intermediate_size), type);
  activated_ = rows(config.intermediate_size, type);
}

void GpuDecoder::normalise(const OutputTerms* terms, const at::Tensor& weight, int num_rows,
                           const std::int32_t* row_ids) {
  cuda::rms_norm({.num_rows = num_rows,
                  .width = config_.hidden_size,
                  .eps = config_.rms_norm_eps,
                  .activations = activations_,
                  .hidden = hidden_.data_ptr<float>(),
                  .delta = terms == nullptr ? nullptr : delta_.const_data_ptr(),
                  .delta_bias = terms == nullptr ? nullptr : floats_or_null(terms->bias),
                  .delta_weight = terms == nullptr ? nullptr : floats_or_null(terms->norm),
                  .weight = weight.const_data_ptr<float>(),
                  .row_ids = row_ids,
                  .out = normed_.data_ptr()},
                 runtime_.stream());
}

void GpuDecoder::project(const at::Tensor& x, const at::Tensor& weight, at::Tensor& out, int num_rows) {
  const auto depth = static_cast<int>(weight.size(1));
  if (cuda::skinny_serves(num_rows, depth, activations_)) {
    cuda::skinny_matmul({.num_rows = num_rows,
                         .depth = depth,
                         .width = static_cast<int>(weight.size(0)),
                         .type = activations_,
                         .x = x.const_data_ptr(),
                         .w = weight.const_data_ptr(),
                         .out = out.data_ptr(),
                         .num_processors = runtime_.num_processors(),
                         .float_out = out.scalar_type() == at::kFloat},
                        runtime_.stream());
    return;
  }
  at::Tensor rows = out.narrow(0, 0, num_rows);
  runtime_.matmul(x.narrow(0, 0, num_rows), weight, rows);
}

void GpuDecoder::project_gated(const at::Tensor& gate_up, int num_rows) {
  if (cuda::skinny_serves(num_rows, config_.hidden_size, activations_)) {
    cuda::skinny_matmul({.num_rows = num_rows,
                         .depth = config_.hidden_size,
                         .width = config_.intermediate_size,
                         .type = activations_,
                         .x = normed_.const_data_ptr(),
                         .w = gate_up.const_data_ptr(),
                         .out = activated_.data_ptr(),
                         .num_processors = runtime_.num_processors(),
                         .gated = true,
                         .activation = config_.activation},
                        runtime_.stream());
    return;
  }
  project(normed_, gate_up, gate_up_, num_rows);
  cuda::gated_mul({.num_rows = num_rows,
                   .width = config_.intermediate_size,
                   .activation = config_.activation,
                   .activations = activations_,
                   .gate_up = gate_up_.const_data_ptr(),
                   .out = activated_.data_ptr()},
                  runtime_.stream());
}

bool GpuDecoder::reserve(const GpuBatch& batch) {
  bool moved = false;
  const auto grow = [&](at::Tensor& buffer, std::int64_t rows, std::int64_t width, const auto& make) {
    if (rows == 0 || (buffer.defined() && buffer.size(0) >= rows)) return;
    buffer = make({buffer.defined() ? std::max(rows, 2 * buffer.size(0)) : rows, width});
    moved = true;
  };
  const auto floats = [&](at::IntArrayRef sizes) { return at::empty(sizes, hidden_.options()); };
  const auto zeros = [&](at::IntArrayRef sizes) {
    return at::zeros(sizes, hidden_.options().dtype(at::kInt));
  };
  grow(logits_, batch.num_logit_rows, config_.vocab_size, floats);
  grow(partials_, cuda::partial_floats(batch.plan, heads_.num_kv_heads, heads_.head_dim), 1, floats);
  grow(counters_, static_cast<std::int64_t>(batch.plan.decode.size()), heads_.num_kv_heads, zeros);
  return moved;
}

void GpuDecoder::forward(const GpuBatch& batch, const KvStorage& kv, const GpuAttentionTap& tap) {
  const int num_tokens = batch.num_tokens;
  KVCRUSH_CHECK(num_tokens > 0 && num_tokens <= hidden_.size(0));
  const cuda::Stream stream = runtime_.stream();
  cuda::embed({.num_rows = num_tokens,
               .width = config_.hidden_size,
               .activations = activations_,
               .table = weights_.embedding.const_data_ptr(),
               .token_ids = batch.token_ids,
               .scale = config_.embedding_scale,
               .hidden = hidden_.data_ptr<float>()},
              stream);
  normalise(nullptr, weights_.layers.front().input_norm, num_tokens);
  OutputTerms of_mlp;
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    const GpuLayerWeights& weights = weights_.layers[static_cast<std::size_t>(layer)];
    project(normed_, weights.qkv, qkv_, num_tokens);
    attend(batch, layer, kv, tap);
    project(attended_, weights.output, delta_, num_tokens);
    const OutputTerms of_attention{weights.output_bias, weights.attention_output_norm};
    normalise(&of_attention, weights.mlp_norm, num_tokens);
    project_gated(weights.gate_up, num_tokens);
    project(activated_, weights.down, delta_, num_tokens);
    of_mlp.norm = weights.mlp_output_norm;
    if (layer + 1 < config_.num_layers)
      normalise(&of_mlp, weights_.layers[static_cast<std::size_t>(layer) + 1].input_norm, num_tokens);
  }
  if (batch.num_logit_rows == 0) return;
  normalise(&of_mlp, weights_.final_norm, batch.num_logit_rows, batch.logit_rows);
  project(normed_, weights_.lm_head, logits_, batch.num_logit_rows);
}

void GpuDecoder::attend(const GpuBatch& batch, int layer, const KvStorage& kv, const GpuAttentionTap& tap) {
  const cuda::Stream stream = runtime_.stream();
  const GpuLayerWeights& weights = weights_.layers[static_cast<std::size_t>(layer)];
  const bool own_rope = config_.has_window_rope && config_.window_tokens(layer) > 0;
  const at::Tensor& rope = !config_.is_rotated(layer) ? weights_.unrotated_table
                           : own_rope                 ? weights_.window_rope_table
                                                      : weights_.rope_table;
  cuda::rope_append({.num_tokens = batch.num_tokens,
                     .num_heads = heads_.num_heads,
                     .pool = kv.pool(),
                     .activations = activations_,
                     .qkv = qkv_.data_ptr(),
                     .sequences = batch.sequences_of(layer),
                     .sequence_of_token = batch.sequence_of_token,
                     .positions = batch.rope_rows,
                     .cos_sin = rope.const_data_ptr<float>(),
                     .bias = floats_or_null(weights.qkv_bias),
                     .q_norm = floats_or_null(weights.q_norm),
                     .k_norm = floats_or_null(weights.k_norm),
                     .norm_eps = config_.rms_norm_eps},
                    stream);
  const bool turn_back = cuda::can_turn_back(heads_.head_dim, batch.widest, batch.plan.decode_rows,
                                             static_cast<int>(batch.plan.prefill.size()));
  cuda::paged_attention({.sequences = batch.sequences_of(layer),
                         .decode = batch.decode,
                         .prefill = batch.prefill,
                         .num_decode = static_cast<int>(batch.plan.decode.size()),
                         .num_prefill = static_cast<int>(batch.plan.prefill.size()),
                         .num_splits = batch.plan.num_splits,
                         .decode_rows = batch.plan.decode_rows,
                         .prefill_rows = batch.plan.prefill_rows,
                         .num_processors = runtime_.num_processors(),
                         .pool = kv.pool(),
                         .widest = batch.widest,
                         .activations = activations_,
                         .q = qkv_.const_data_ptr(),
                         .q_stride = heads_.qkv_width(),
                         .num_heads = heads_.num_heads,
                         .scale = 1.0F / std::sqrt(static_cast<float>(heads_.head_dim)),
                         .out = attended_.data_ptr(),
                         .row_stats = row_stats_.data_ptr<float>(),
                         .turn_back = turn_back,
                         .partials = partials_.defined() ? partials_.data_ptr<float>() : nullptr,
                         .counters = counters_.defined() ? counters_.data_ptr<int>() : nullptr},
                        stream);
  tap(layer);
  if (turn_back) return;
  cuda::hadamard({.num_rows = batch.num_tokens,
                  .num_heads = heads_.num_heads,
                  .head_dim = heads_.head_dim,
                  .activations = activations_,
                  .x = attended_.data_ptr()},
                 stream);
}

}  // namespace kvcrush
