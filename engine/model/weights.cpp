#include "engine/model/weights.h"

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "engine/core/huge_pages.h"
#include "engine/core/status.h"
#include "engine/loader/weight_type.h"
#include "engine/model/rope_table.h"

namespace kvcrush {

namespace {

const WeightView& find(const ModelFile& model, const std::string& name) {
  const auto it = model.weights.find(name);
  KVCRUSH_CHECK(it != model.weights.end());  // the loader has checked that every tensor is there
  return it->second;
}

// Whether these matrices, stacked, can stay in few bits.
bool can_stay_quantized(const std::vector<const WeightView*>& views) {
  for (const WeightView* view : views) {
    if (weight_block(view->dtype).num_elements == 1) return false;
    if (view != views.back() && view->shape[0] % cpu::kQuantPanel != 0) return false;
  }
  return true;
}

void read_codes(const WeightView& view, std::int64_t row, std::span<cpu::CodeBlock> out) {
  thread_local std::vector<CodedBlock> blocks;
  blocks.resize(out.size());
  read_coded_row(view, row, blocks);
  for (std::size_t b = 0; b < out.size(); ++b) {
    out[b].d = blocks[b].step;
    out[b].m = blocks[b].minimum + cpu::kCodeZero * blocks[b].step;
    for (std::size_t i = 0; i < blocks[b].codes.size(); ++i)
      out[b].codes[i] = static_cast<std::int8_t>(blocks[b].codes[i] - cpu::kCodeZero);
  }
}

// In 4 bits where the file has codes of 4 bits, else in 8.
void add_rows(const WeightView& view, cpu::QuantizedMatrix& matrix) {
  if (has_coded_blocks(view.dtype)) {
    matrix.add_int4(view.shape[0], [&](std::int64_t row, std::span<cpu::CodeBlock> blocks) {
      read_codes(view, row, blocks);
    });
  } else {
    matrix.add_int8(view.shape[0],
                    [&](std::int64_t row, std::span<float> values) { read_row_f32(view, row, values); });
  }
}

struct WeightReader {
  const ModelFile& model;
  at::Device device;
  WeightStorage storage;
  std::shared_ptr<std::pmr::memory_resource> memory;  // of the weights that stay quantised

  LinearWeight linear(const std::string& prefix, std::initializer_list<const char*> names) const {
    std::vector<const WeightView*> views;
    for (const char* name : names) views.push_back(&find(model, prefix + name));
    if (storage == WeightStorage::kFloat32 || !use_cpu_kernels(device) || !can_stay_quantized(views))
      return make_linear_weight(read_stacked(model, prefix, names), device);
    LinearWeight weight;
    weight.quantized = cpu::QuantizedMatrix(views.front()->shape[1], memory);
    for (const WeightView* view : views) add_rows(*view, weight.quantized);
    return weight;
  }

  // Undefined where the model has no such tensor.
  at::Tensor optional_vector(const std::string& name) const {
    return model.weights.contains(name) ? read_stacked(model, name, {""}).to(device) : at::Tensor();
  }
};

LayerWeights load_layer(const WeightReader& reader, int layer) {
  const ModelFile& model = reader.model;
  const at::Device device = reader.device;
  const std::string prefix = "layers." + std::to_string(layer) + ".";
  LayerWeights weights;
  weights.input_norm = read_stacked(model, prefix, {"input_norm"}).to(device);
  weights.qkv = reader.linear(prefix, {"q_proj", "k_proj", "v_proj"});
  if (model.weights.contains(prefix + "q_bias")) {
    weights.qkv.bias = read_stacked(model, prefix, {"q_bias", "k_bias", "v_bias"}).to(device);
  }
  weights.q_norm = reader.optional_vector(prefix + "q_norm");
  weights.k_norm = reader.optional_vector(prefix + "k_norm");
  weights.output = reader.linear(prefix, {"o_proj"});
  weights.output.bias = reader.optional_vector(prefix + "o_bias");
  weights.attention_output_norm = reader.optional_vector(prefix + "attention_output_norm");
  weights.mlp_norm = read_stacked(model, prefix, {"mlp_norm"}).to(device);
  weights.gate_up = reader.linear(prefix, {"gate_proj", "up_proj"});
  weights.down = reader.linear(prefix, {"down_proj"});
  weights.mlp_output_norm = reader.optional_vector(prefix + "mlp_output_norm");
  return weights;
}

}  // namespace

at::Tensor read_stacked(const ModelFile& model, const std::string& prefix,
                        std::initializer_list<const char*> names) {
  std::int64_t rows = 0;
  for (const char* name : names) rows += find(model, prefix + name).shape.front();
  std::vector<std::int64_t> shape = find(model, prefix + *names.begin()).shape;
  shape.front() = rows;
  at::Tensor stacked = at::empty(shape, at::kFloat);
  float* next = stacked.data_ptr<float>();
  for (const char* name : names) {
    const std::string full_name = prefix + name;
    const WeightView& view = find(model, full_name);
    const auto count = static_cast<std::size_t>(view.num_elements());
    read_f32(view, {next, count});
    next += count;
  }
  return stacked;
}

at::Tensor make_rope_tensor(const RopeConfig& rope, int head_dim, int max_context_tokens) {
  const std::vector<float> table = make_rope_table(rope, head_dim, max_context_tokens);
  return at::tensor(at::ArrayRef<float>(table), at::kFloat).view({-1, head_dim});
}

EmbeddingTable::EmbeddingTable(std::shared_ptr<const ModelFile> model, at::Device device)
    : model_(std::move(model)), view_(&find(*model_, "embed_tokens")), device_(device) {
  if (!use_cpu_kernels(device_)) dense_ = read_stacked(*model_, "", {"embed_tokens"}).to(device_);
}

void EmbeddingTable::lookup(std::span<const TokenId> ids, at::Tensor& rows) const {
  if (!use_cpu_kernels(device_)) {
    const at::Tensor index = at::tensor(at::ArrayRef<TokenId>(ids.data(), ids.size()), at::kInt).to(device_);
    rows.copy_(dense_.index_select(0, index));
    return;
  }
  if (!packed_.empty()) {
    for (std::size_t i = 0; i < ids.size(); ++i)
      packed_.read_row(ids[i], rows.data_ptr<float>() + static_cast<std::int64_t>(i) * rows.size(1));
    return;
  }
  const std::size_t row_bytes = view_->bytes.size() / static_cast<std::size_t>(view_->shape[0]);
  const auto width = static_cast<std::size_t>(view_->shape[1]);
  WeightView row = *view_;
  row.shape = {1, view_->shape[1]};
  float* target = rows.data_ptr<float>();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    row.bytes = view_->bytes.subspan(static_cast<std::size_t>(ids[i]) * row_bytes, row_bytes);
    read_f32(row, {target + i * width, width});
  }
}

bool keeps_quantized(const ModelFile& model) {
  const std::string prefix = "layers.0.";
  return can_stay_quantized(
      {&find(model, prefix + "q_proj"), &find(model, prefix + "k_proj"), &find(model, prefix + "v_proj")});
}

ModelWeights load_weights(const std::shared_ptr<const ModelFile>& model, int max_context_tokens,
                          at::Device device, WeightStorage storage) {
  const ModelConfig& config = model->config;
  const WeightReader reader{*model, device, storage, make_huge_page_memory()};
  ModelWeights weights{.quantized = false,
                       .embedding = EmbeddingTable(model, device),
                       .layers = {},
                       .final_norm = {},
                       .lm_head = {},
                       .rope_table = {},
                       .window_rope_table = {}};
  weights.layers.reserve(config.num_layers);
  for (int layer = 0; layer < config.num_layers; ++layer) weights.layers.push_back(load_layer(reader, layer));
  weights.final_norm = read_stacked(*model, "", {"norm"}).to(device);
  weights.lm_head = reader.linear("", {config.tied_embeddings ? "embed_tokens" : "lm_head"});
  if (config.tied_embeddings && !weights.lm_head.quantized.empty())
    weights.embedding.read_from(weights.lm_head.quantized);
  weights.quantized =
      storage == WeightStorage::kAsStored && use_cpu_kernels(device) && keeps_quantized(*model);
  weights.rope_table = make_rope_tensor(config.rope, config.head_dim, max_context_tokens).to(device);
  weights.window_rope_table =
      config.has_window_rope
          ? make_rope_tensor(config.window_rope, config.head_dim, max_context_tokens).to(device)
          : weights.rope_table;
  return weights;
}

}  // namespace kvcrush
