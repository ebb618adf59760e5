#include "engine/loader/weight_map.h"

#include <algorithm>
#include <array>
#include <utility>

#include "engine/core/readable.h"
#include "engine/loader/weight_type.h"

namespace kvcrush {
namespace {

// What one tensor of a layer is in the engine, and what it is called in files.
struct LayerName {
  std::string_view canonical;
  std::string_view gguf;
  std::string_view hugging_face;
};

constexpr std::array<LayerName, 10> kMatrices = {{
    {"q_proj", "attn_q.weight", "self_attn.q_proj.weight"},
    {"k_proj", "attn_k.weight", "self_attn.k_proj.weight"},
    {"v_proj", "attn_v.weight", "self_attn.v_proj.weight"},
    {"o_proj", "attn_output.weight", "self_attn.o_proj.weight"},
    {"gate_proj", "ffn_gate.weight", "mlp.gate_proj.weight"},
    {"up_proj", "ffn_up.weight", "mlp.up_proj.weight"},
    {"down_proj", "ffn_down.weight", "mlp.down_proj.weight"},
    {"q_bias", "attn_q.bias", "self_attn.q_proj.bias"},
    {"k_bias", "attn_k.bias", "self_attn.k_proj.bias"},
    {"v_bias", "attn_v.bias", "self_attn.v_proj.bias"},
}};
constexpr LayerName kOutputBias = {"o_bias", "attn_output.bias", "self_attn.o_proj.bias"};
constexpr std::array<LayerName, 2> kHeadNorms = {{
    {"q_norm", "attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"k_norm", "attn_k_norm.weight", "self_attn.k_norm.weight"},
}};
constexpr std::array<LayerName, 2> kNorms = {{
    {"input_norm", "attn_norm.weight", "input_layernorm.weight"},
    {"mlp_norm", "ffn_norm.weight", "post_attention_layernorm.weight"},
}};
// Of architectures that normalise outputs as well: what others call so is another norm here.
constexpr std::array<LayerName, 4> kNormsWithOutputs = {{
    {"input_norm", "attn_norm.weight", "input_layernorm.weight"},
    {"attention_output_norm", "post_attention_norm.weight", "post_attention_layernorm.weight"},
    {"mlp_norm", "ffn_norm.weight", "pre_feedforward_layernorm.weight"},
    {"mlp_output_norm", "post_ffw_norm.weight", "post_feedforward_layernorm.weight"},
}};
// Tensors that hold several, one after the other.
constexpr LayerName kFusedQkv = {"", "attn_qkv.weight", "self_attn.qkv_proj.weight"};
constexpr LayerName kFusedGateUp = {"", "ffn_up.weight", "mlp.gate_up_proj.weight"};

// Rows of a file's tensor that are one of the engine's.
struct Part {
  std::string canonical;
  std::int64_t rows = 0;
  HeadRows head_rows = {};
};

struct Expected {
  std::vector<Part> parts;          // in order
  std::vector<std::int64_t> shape;  // of all together
  float scale = 1.0f;
  float offset = 0.0f;
};

// Tensors that some files carry and the engine computes by itself, or reads elsewhere (those of RoPE).
bool is_ignored(std::string_view name, NameScheme scheme, bool tied) {
  if (scheme == NameScheme::kGguf)
    return name == "rope_freqs.weight" || name.starts_with("rope_factors_") ||
           name.ends_with(".attn_rot_embd");
  return name.ends_with("rotary_emb.inv_freq") || (tied && name == "lm_head.weight");
}

// Lists what a model's files must hold.
class Expectations {
 public:
  Expectations(const ModelConfig& config, NameScheme scheme, const Architecture& architecture)
      : config_(config), gguf_(scheme == NameScheme::kGguf), architecture_(architecture) {
    const std::int64_t hidden = config.hidden_size;
    add(gguf_ ? "token_embd.weight" : "model.embed_tokens.weight", "embed_tokens",
        {config.vocab_size, hidden});
    add_norm(gguf_ ? "output_norm.weight" : "model.norm.weight", "norm", hidden);
    if (!config.tied_embeddings)
      add(gguf_ ? "output.weight" : "lm_head.weight", "lm_head", {config.vocab_size, hidden});
    for (int layer = 0; layer < config.num_layers; ++layer) add_layer(layer);
  }

  std::map<std::string, Expected> take() { return std::move(expected_); }

 private:
  void add(const std::string& name, const std::string& canonical, std::vector<std::int64_t> shape) {
    const std::int64_t rows = shape.front();
    expected_[name] = {.parts = {{canonical, rows}}, .shape = std::move(shape)};
  }

  void add_norm(const std::string& name, const std::string& canonical, std::int64_t width) {
    add(name, canonical, {width});
    if (!gguf_ && architecture_.norms_from_one) expected_[name].offset = 1.0f;
  }

  std::string name_of(const LayerName& name) const {
    return prefix_ + std::string(gguf_ ? name.gguf : name.hugging_face);
  }
  std::string canonical_of(const LayerName& name) const { return layer_ + std::string(name.canonical); }

  void add_layer(int layer) {
    layer_ = "layers." + std::to_string(layer) + ".";
    prefix_ = (gguf_ ? "blk." : "model.layers.") + std::to_string(layer) + ".";
    const auto add_norms = [this](const auto& names) {
      for (const LayerName& name : names) add_norm(name_of(name), canonical_of(name), config_.hidden_size);
    };
    if (config_.output_norms) {
      add_norms(kNormsWithOutputs);
    } else {
      add_norms(kNorms);
    }
    for (const LayerName& name : kMatrices) add_matrix(name);
    if (config_.output_bias) add(name_of(kOutputBias), canonical_of(kOutputBias), {config_.hidden_size});
    if (config_.qk_norm) {
      for (const LayerName& name : kHeadNorms) add_head_norm(name);
    }
  }

  void add_matrix(const LayerName& name) {
    const bool bias = name.canonical.ends_with("_bias");
    if (bias && !config_.qkv_bias) return;
    const char first = name.canonical[0];
    const bool of_qkv = first == 'q' || first == 'k' || first == 'v';
    const bool of_gate_up = first == 'g' || first == 'u';
    std::string file_name = name_of(name);
    if (architecture_.fused_projections && of_qkv && !bias) file_name = name_of(kFusedQkv);
    if (architecture_.fused_projections && of_gate_up) file_name = name_of(kFusedGateUp);
    Expected& expected = expected_[file_name];
    const std::int64_t rows = rows_of(name.canonical);
    expected.parts.push_back(
        {canonical_of(name), rows, first == 'q' || first == 'k' ? head_rows() : HeadRows{}});
    if (expected.shape.empty()) {
      expected.shape = {rows};
      if (!bias) expected.shape.push_back(depth_of(name.canonical));
    } else {
      expected.shape.front() += rows;
    }
  }

  void add_head_norm(const LayerName& name) {
    add_norm(name_of(name), canonical_of(name), config_.head_dim);
    Expected& expected = expected_[name_of(name)];
    expected.parts.front().head_rows = head_rows();
    if (name.canonical != "q_norm") return;
    expected.scale = config_.query_scale;
    expected.offset *= config_.query_scale;
  }

  std::int64_t rows_of(std::string_view canonical) const {
    if (canonical[0] == 'q') return std::int64_t{config_.num_heads} * config_.head_dim;
    if (canonical[0] == 'k' || canonical[0] == 'v')
      return std::int64_t{config_.num_kv_heads} * config_.head_dim;
    return canonical[0] == 'g' || canonical[0] == 'u' ? config_.intermediate_size : config_.hidden_size;
  }
  std::int64_t depth_of(std::string_view canonical) const {
    if (canonical == "o_proj") return std::int64_t{config_.num_heads} * config_.head_dim;
    return canonical == "down_proj" ? config_.intermediate_size : config_.hidden_size;
  }

  HeadRows head_rows() const {
    const bool interleaved = gguf_ && architecture_.interleaved_in_gguf;
    const std::int64_t rotary_dim = config_.rope.rotated_channels(config_.head_dim);
    if (!interleaved && rotary_dim == config_.head_dim) return {};
    return {config_.head_dim, rotary_dim, interleaved};
  }

  const ModelConfig& config_;
  bool gguf_;
  const Architecture& architecture_;
  std::string layer_;   // prefix of canonical names
  std::string prefix_;  // of the file's
  std::map<std::string, Expected> expected_;
};

// Adds a tensor's parts to the model.
void add_weight(const WeightView& whole, const Expected& expected, ModelFile& model) {
  model.weight_bytes += whole.bytes.size();
  model.num_parameters += static_cast<std::uint64_t>(whole.num_elements());
  const std::size_t row_bytes = whole.bytes.size() / static_cast<std::size_t>(whole.shape.front());
  std::size_t first_byte = 0;
  for (const Part& part : expected.parts) {
    WeightView view = whole;
    view.head_rows = part.head_rows;
    view.scale = expected.scale;
    view.offset = expected.offset;
    if (expected.parts.size() > 1) {
      const std::size_t num_bytes = row_bytes * static_cast<std::size_t>(part.rows);
      view.bytes = whole.bytes.subspan(first_byte, num_bytes);
      view.shape.front() = part.rows;
      view.stored.first_row = static_cast<std::int64_t>(first_byte / row_bytes);
      first_byte += num_bytes;
    }
    model.weights.emplace(part.canonical, std::move(view));
  }
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

Status map_weights(const std::vector<NamedWeight>& weights, NameScheme scheme,
                   const Architecture& architecture, const std::string& source, ModelFile& model) {
  const ModelConfig& config = model.config;
  std::map<std::string, Expected> expected = Expectations(config, scheme, architecture).take();
  for (const NamedWeight& weight : weights) {
    const std::string& file = weight.view.stored.file.empty() ? source : weight.view.stored.file;
    const auto found = expected.find(weight.name);
    if (found == expected.end()) {
      if (is_ignored(weight.name, scheme, config.tied_embeddings)) continue;
      return invalid_argument(file + ": tensor " + in_quotes(weight.name) + " is not part of a " +
                              config.architecture + " model with " + std::to_string(config.num_layers) +
                              " layers" + (config.qkv_bias ? "" : " and no attention bias"));
    }
    const Expected& wanted = found->second;
    if (weight.view.shape != wanted.shape) {
      return invalid_argument(file + ": tensor " + in_quotes(weight.name) + " has shape " +
                              shape_text(weight.view.shape) + "; the configuration demands " +
                              shape_text(wanted.shape));
    }
    add_weight(weight.view, wanted, model);
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
