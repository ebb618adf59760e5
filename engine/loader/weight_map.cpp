#include "engine/loader/weight_map.h"

#include <algorithm>
#include <array>
#include <utility>

#include "engine/core/readable.h"
#include "engine/loader/weight_type.h"

namespace kvcrush {
namespace {

struct Expected {
  std::string canonical;
  std::vector<std::int64_t> shape;
  std::int64_t interleaved_head_dim = 0;
};

struct LayerName {
  std::string_view canonical;
  std::string_view gguf;
  std::string_view hugging_face;
};

constexpr std::array<LayerName, 12> kLayerNames = {{
    {"input_norm", "attn_norm.weight", "input_layernorm.weight"},
    {"q_proj", "attn_q.weight", "self_attn.q_proj.weight"},
    {"k_proj", "attn_k.weight", "self_attn.k_proj.weight"},
    {"v_proj", "attn_v.weight", "self_attn.v_proj.weight"},
    {"o_proj", "attn_output.weight", "self_attn.o_proj.weight"},
    {"post_attention_norm", "ffn_norm.weight", "post_attention_layernorm.weight"},
    {"gate_proj", "ffn_gate.weight", "mlp.gate_proj.weight"},
    {"up_proj", "ffn_up.weight", "mlp.up_proj.weight"},
    {"down_proj", "ffn_down.weight", "mlp.down_proj.weight"},
    {"q_bias", "attn_q.bias", "self_attn.q_proj.bias"},
    {"k_bias", "attn_k.bias", "self_attn.k_proj.bias"},
    {"v_bias", "attn_v.bias", "self_attn.v_proj.bias"},
}};

// Tensors that some files carry and the engine computes by itself, or reads elsewhere (rope_freqs.weight).
bool is_ignored(std::string_view name, NameScheme scheme, bool tied) {
  if (scheme == NameScheme::kGguf) return name == "rope_freqs.weight" || name.ends_with(".attn_rot_embd");
  return name.ends_with("rotary_emb.inv_freq") || (tied && name == "lm_head.weight");
}

std::vector<std::int64_t> layer_shape(std::string_view name, const ModelConfig& config) {
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t intermediate = config.intermediate_size;
  const std::int64_t query = std::int64_t{config.num_heads} * config.head_dim;
  const std::int64_t key_value = std::int64_t{config.num_kv_heads} * config.head_dim;
  if (name == "q_proj") return {query, hidden};
  if (name == "k_proj" || name == "v_proj") return {key_value, hidden};
  if (name == "o_proj") return {hidden, query};
  if (name == "gate_proj" || name == "up_proj") return {intermediate, hidden};
  if (name == "down_proj") return {hidden, intermediate};
  if (name == "q_bias") return {query};
  if (name == "k_bias" || name == "v_bias") return {key_value};
  return {hidden};  // norms
}

// Source name to what is expected of it.
std::map<std::string, Expected> expected_weights(const ModelConfig& config, NameScheme scheme,
                                                 bool expect_bias) {
  const bool gguf = scheme == NameScheme::kGguf;
  const std::int64_t hidden = config.hidden_size;
  std::map<std::string, Expected> expected;
  expected[gguf ? "token_embd.weight" : "model.embed_tokens.weight"] = {"embed_tokens",
                                                                        {config.vocab_size, hidden}};
  expected[gguf ? "output_norm.weight" : "model.norm.weight"] = {"norm", {hidden}};
  if (!config.tied_embeddings) {
    expected[gguf ? "output.weight" : "lm_head.weight"] = {"lm_head", {config.vocab_size, hidden}};
  }
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const std::string index = std::to_string(layer);
    const std::string prefix = (gguf ? "blk." : "model.layers.") + index + ".";
    for (const LayerName& name : kLayerNames) {
      if (name.canonical.ends_with("_bias") && !expect_bias) continue;
      const bool rotated = name.canonical[0] == 'q' || name.canonical[0] == 'k';
      expected[prefix + std::string(gguf ? name.gguf : name.hugging_face)] = {
          "layers." + index + "." + std::string(name.canonical), layer_shape(name.canonical, config),
          gguf && rotated ? config.head_dim : 0};
    }
  }
  return expected;
}

// The type that holds most of the bytes.
std::string main_dtype(const std::map<std::string, WeightView>& weights) {
  std::map<WeightDtype, std::uint64_t> bytes;
  for (const auto& [name, view] : weights) bytes[view.dtype] += view.bytes.size();
  const auto largest = std::max_element(bytes.begin(), bytes.end(), [](const auto& left, const auto& right) {
    return left.second < right.second;
  });
  return largest == bytes.end() ? std::string() : std::string(weight_dtype_name(largest->first));
}

}  // namespace

bool has_weight(const std::vector<NamedWeight>& weights, std::string_view name) {
  return std::any_of(weights.begin(), weights.end(),
                     [&](const NamedWeight& weight) { return weight.name == name; });
}

Status map_weights(const std::vector<NamedWeight>& weights, NameScheme scheme, bool expect_bias,
                   const std::string& source, ModelFile& model) {
  const ModelConfig& config = model.config;
  std::map<std::string, Expected> expected = expected_weights(config, scheme, expect_bias);
  for (const NamedWeight& weight : weights) {
    const auto found = expected.find(weight.name);
    if (found == expected.end()) {
      if (is_ignored(weight.name, scheme, config.tied_embeddings)) continue;
      return invalid_argument(source + ": tensor " + in_quotes(weight.name) + " is not part of a " +
                              config.architecture + " model with " + std::to_string(config.num_layers) +
                              " layers" + (expect_bias ? "" : " and no attention bias"));
    }
    const Expected& wanted = found->second;
    if (weight.view.shape != wanted.shape) {
      return invalid_argument(source + ": tensor " + in_quotes(weight.name) + " has shape " +
                              shape_text(weight.view.shape) + "; the configuration demands " +
                              shape_text(wanted.shape));
    }
    WeightView view = weight.view;
    view.interleaved_head_dim = wanted.interleaved_head_dim;
    model.weight_bytes += view.bytes.size();
    model.num_parameters += static_cast<std::uint64_t>(view.num_elements());
    model.weights.emplace(wanted.canonical, std::move(view));
    expected.erase(found);
  }
  if (!expected.empty()) {
    return invalid_argument(
        source + ": tensor '" + expected.begin()->first + "' is missing" +
        (expected.size() == 1 ? std::string() : ", and " + std::to_string(expected.size() - 1) + " more"));
  }
  model.weight_dtype = main_dtype(model.weights);
  return {};
}

}  // namespace kvcrush
