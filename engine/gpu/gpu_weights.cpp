#include "engine/gpu/gpu_weights.h"

#include <ATen/ATen.h>

#include <string>

#include "engine/model/weights.h"

namespace kvcrush {

at::ScalarType gpu_scalar_type(const std::string& weight_dtype) {
  if (weight_dtype == "f32") return at::kFloat;
  return weight_dtype == "f16" ? at::kHalf : at::kBFloat16;
}

GpuWeights load_gpu_weights(const ModelFile& model, int max_context_tokens, at::ScalarType type,
                            at::Device device) {
  const auto matrix = [&](const std::string& prefix, std::initializer_list<const char*> names) {
    return read_stacked(model, prefix, names).to(device, type);
  };
  const auto vector = [&](const std::string& prefix, std::initializer_list<const char*> names) {
    return read_stacked(model, prefix, names).to(device);
  };
  const auto optional_vector = [&](const std::string& name) {
    return model.weights.contains(name) ? vector(name, {""}) : at::Tensor();
  };
  GpuWeights weights;
  weights.embedding = matrix("", {"embed_tokens"});
  for (int layer = 0; layer < model.config.num_layers; ++layer) {
    const std::string prefix = "layers." + std::to_string(layer) + ".";
    GpuLayerWeights& one = weights.layers.emplace_back();
    one.input_norm = vector(prefix, {"input_norm"});
    one.qkv = matrix(prefix, {"q_proj", "k_proj", "v_proj"});
    if (model.weights.contains(prefix + "q_bias"))
      one.qkv_bias = vector(prefix, {"q_bias", "k_bias", "v_bias"});
    one.q_norm = optional_vector(prefix + "q_norm");
    one.k_norm = optional_vector(prefix + "k_norm");
    one.output = matrix(prefix, {"o_proj"});
    one.output_bias = optional_vector(prefix + "o_bias");
    one.attention_output_norm = optional_vector(prefix + "attention_output_norm");
    one.mlp_norm = vector(prefix, {"mlp_norm"});
    one.gate_up = matrix(prefix, {"gate_proj", "up_proj"});
    one.down = matrix(prefix, {"down_proj"});
    one.mlp_output_norm = optional_vector(prefix + "mlp_output_norm");
  }
  weights.final_norm = vector("", {"norm"});
  weights.lm_head = model.config.tied_embeddings ? weights.embedding : matrix("", {"lm_head"});
  const ModelConfig& config = model.config;
  weights.rope_table = make_rope_tensor(config.rope, config.head_dim, max_context_tokens).to(device);
  weights.window_rope_table =
      config.has_window_rope
          ? make_rope_tensor(config.window_rope, config.head_dim, max_context_tokens).to(device)
          : weights.rope_table;
  if (!config.unrotated_layers.empty()) {
    weights.unrotated_table = at::zeros_like(weights.rope_table);
    weights.unrotated_table.narrow(1, 0, config.head_dim / 2).fill_(1.0);
  }
  return weights;
}

}  // namespace kvcrush
