#include "tests/unit/loader/builders.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

namespace kvcrush::testing {
namespace {

void append_string(Bytes& bytes, const std::string& text) {
  append<std::uint64_t>(bytes, text.size());
  append_text(bytes, text);
}

void pad(Bytes& bytes, std::uint64_t alignment) {
  while (bytes.size() % alignment != 0) bytes.push_back(std::byte{0});
}

struct SmallTensor {
  const char* gguf;
  const char* hugging_face;
  std::vector<std::int64_t> shape;
};

std::vector<SmallTensor> layer_tensors() {
  return {{"attn_norm.weight", "input_layernorm.weight", {8}},
          {"attn_q.weight", "self_attn.q_proj.weight", {8, 8}},
          {"attn_k.weight", "self_attn.k_proj.weight", {4, 8}},
          {"attn_v.weight", "self_attn.v_proj.weight", {4, 8}},
          {"attn_output.weight", "self_attn.o_proj.weight", {8, 8}},
          {"ffn_norm.weight", "post_attention_layernorm.weight", {8}},
          {"ffn_gate.weight", "mlp.gate_proj.weight", {12, 8}},
          {"ffn_up.weight", "mlp.up_proj.weight", {12, 8}},
          {"ffn_down.weight", "mlp.down_proj.weight", {8, 12}}};
}

std::vector<HfTensor> small_tensors(bool gguf, bool tied) {
  std::vector<HfTensor> tensors;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    std::size_t count = 1;
    for (const std::int64_t dimension : shape) count *= static_cast<std::size_t>(dimension);
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i) {
      values[i] = static_cast<float>(tensors.size()) + static_cast<float>(i) / 1000.0f;
    }
    tensors.push_back({name, "F32", std::move(shape), f32_bytes(values)});
  };
  add(gguf ? "token_embd.weight" : "model.embed_tokens.weight", {6, 8});
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = (gguf ? "blk." : "model.layers.") + std::to_string(layer) + ".";
    for (const SmallTensor& tensor : layer_tensors()) {
      add(prefix + (gguf ? tensor.gguf : tensor.hugging_face), tensor.shape);
    }
  }
  add(gguf ? "output_norm.weight" : "model.norm.weight", {8});
  if (!tied) add(gguf ? "output.weight" : "lm_head.weight", {6, 8});
  return tensors;
}

}  // namespace

void append_text(Bytes& bytes, const std::string& text) {
  for (const char character : text) bytes.push_back(static_cast<std::byte>(character));
}

Bytes f32_bytes(const std::vector<float>& values) {
  Bytes bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

void GgufBuilder::raw(const std::string& key, const Bytes& payload) {
  entries_.push_back({key, payload});
}

void GgufBuilder::text(const std::string& key, const std::string& value) {
  Bytes payload;
  append<std::uint32_t>(payload, 8);
  append_string(payload, value);
  raw(key, payload);
}

void GgufBuilder::u32(const std::string& key, std::uint32_t value) {
  Bytes payload;
  append<std::uint32_t>(payload, 4);
  append(payload, value);
  raw(key, payload);
}

void GgufBuilder::f32(const std::string& key, float value) {
  Bytes payload;
  append<std::uint32_t>(payload, 6);
  append(payload, value);
  raw(key, payload);
}

void GgufBuilder::flag(const std::string& key, bool value) {
  Bytes payload;
  append<std::uint32_t>(payload, 7);
  append<std::uint8_t>(payload, value ? 1 : 0);
  raw(key, payload);
}

void GgufBuilder::texts(const std::string& key, const std::vector<std::string>& values) {
  Bytes payload;
  append<std::uint32_t>(payload, 9);
  append<std::uint32_t>(payload, 8);
  append<std::uint64_t>(payload, values.size());
  for (const std::string& value : values) append_string(payload, value);
  raw(key, payload);
}

void GgufBuilder::i32s(const std::string& key, const std::vector<std::int32_t>& values) {
  Bytes payload;
  append<std::uint32_t>(payload, 9);
  append<std::uint32_t>(payload, 5);
  append<std::uint64_t>(payload, values.size());
  for (const std::int32_t value : values) append(payload, value);
  raw(key, payload);
}

void GgufBuilder::remove(const std::string& key) {
  std::erase_if(entries_, [&](const Entry& entry) { return entry.key == key; });
}

void GgufBuilder::tensor(const std::string& name, std::vector<std::uint64_t> shape, std::uint32_t type,
                         Bytes data) {
  tensors_.push_back({name, std::move(shape), type, std::move(data)});
}

void GgufBuilder::remove_tensor(const std::string& name) {
  std::erase_if(tensors_, [&](const Tensor& tensor) { return tensor.name == name; });
}

void GgufBuilder::keep_tensors(const std::function<bool(const std::string& name)>& wanted) {
  std::erase_if(tensors_, [&](const Tensor& tensor) { return !wanted(tensor.name); });
}

void GgufBuilder::take_tensors(const GgufBuilder& from, const std::vector<std::string>& names) {
  for (const Tensor& tensor : from.tensors_) {
    if (std::find(names.begin(), names.end(), tensor.name) != names.end()) tensors_.push_back(tensor);
  }
}

std::vector<std::string> GgufBuilder::tensor_names() const {
  std::vector<std::string> names;
  for (const Tensor& tensor : tensors_) names.push_back(tensor.name);
  return names;
}

void GgufBuilder::move_tensor(const std::string& name, std::uint64_t offset) {
  for (Tensor& tensor : tensors_) {
    if (tensor.name == name) tensor.forced_offset = static_cast<std::int64_t>(offset);
  }
}

Bytes GgufBuilder::build() const {
  Bytes bytes;
  append_text(bytes, "GGUF");
  append(bytes, version);
  append<std::uint64_t>(bytes, tensors_.size());
  append<std::uint64_t>(bytes, entries_.size());
  for (const Entry& entry : entries_) {
    append_string(bytes, entry.key);
    bytes.insert(bytes.end(), entry.payload.begin(), entry.payload.end());
  }
  Bytes data;
  for (const Tensor& tensor : tensors_) {
    pad(data, alignment);
    append_string(bytes, tensor.name);
    append<std::uint32_t>(bytes, static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto dimension = tensor.shape.rbegin(); dimension != tensor.shape.rend(); ++dimension) {
      append(bytes, *dimension);
    }
    append(bytes, tensor.type);
    append<std::uint64_t>(
        bytes, tensor.forced_offset >= 0 ? static_cast<std::uint64_t>(tensor.forced_offset) : data.size());
    data.insert(data.end(), tensor.data.begin(), tensor.data.end());
  }
  pad(bytes, alignment);
  bytes.insert(bytes.end(), data.begin(), data.end());
  return bytes;
}

GgufBuilder small_gguf(bool tied) {
  GgufBuilder builder;
  builder.text("general.architecture", "llama");
  builder.text("general.name", "Small");
  builder.u32("llama.block_count", 2);
  builder.u32("llama.context_length", 128);
  builder.u32("llama.embedding_length", 8);
  builder.u32("llama.feed_forward_length", 12);
  builder.u32("llama.attention.head_count", 2);
  builder.u32("llama.attention.head_count_kv", 1);
  builder.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  builder.text("tokenizer.ggml.model", "gpt2");
  builder.text("tokenizer.ggml.pre", "smollm");
  builder.texts("tokenizer.ggml.tokens", {"a", "b", "ab", "<|endoftext|>", "<|im_end|>", "<tool>"});
  builder.i32s("tokenizer.ggml.token_type", {1, 1, 1, 3, 3, 4});
  builder.texts("tokenizer.ggml.merges", {"a b"});
  builder.u32("tokenizer.ggml.eos_token_id", 4);
  for (HfTensor& tensor : small_tensors(true, tied)) {
    builder.tensor(tensor.name, {tensor.shape.begin(), tensor.shape.end()}, 0, std::move(tensor.data));
  }
  return builder;
}

nlohmann::json small_config() {
  return {{"model_type", "llama"},
          {"architectures", {"LlamaForCausalLM"}},
          {"num_hidden_layers", 2},
          {"hidden_size", 8},
          {"intermediate_size", 12},
          {"num_attention_heads", 2},
          {"num_key_value_heads", 1},
          {"vocab_size", 6},
          {"max_position_embeddings", 128},
          {"rms_norm_eps", 1e-5},
          {"tie_word_embeddings", true},
          {"rope_theta", 10000.0},
          {"eos_token_id", 4}};
}

nlohmann::json small_tokenizer() {
  return nlohmann::json::parse(R"({
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Digits", "individual_digits": true},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
    "added_tokens": [{"id": 3, "content": "<|endoftext|>", "special": true},
                     {"id": 4, "content": "<|im_end|>", "special": true},
                     {"id": 5, "content": "<tool>", "special": false}]})");
}

std::vector<HfTensor> small_hf_tensors(bool tied) {
  return small_tensors(false, tied);
}

Bytes safetensors_bytes(const std::string& header, const Bytes& data) {
  Bytes bytes;
  append<std::uint64_t>(bytes, header.size());
  append_text(bytes, header);
  bytes.insert(bytes.end(), data.begin(), data.end());
  return bytes;
}

Bytes safetensors_bytes(const std::vector<HfTensor>& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  Bytes data;
  for (const HfTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {data.size(), data.size() + tensor.data.size()}}};
    data.insert(data.end(), tensor.data.begin(), tensor.data.end());
  }
  return safetensors_bytes(header.dump(), data);
}

TemporaryDirectory::TemporaryDirectory() {
  static int counter = 0;
  path_ = std::filesystem::temp_directory_path() /
          ("kvcrush_loader_test_" + std::to_string(::getpid()) + "_" + std::to_string(counter++));
  std::filesystem::create_directories(path_);
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryDirectory::write(const std::string& name, const Bytes& bytes) const {
  std::ofstream stream(path_ / name, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return file(name);
}

std::string TemporaryDirectory::write(const std::string& name, const std::string& text) const {
  Bytes bytes;
  append_text(bytes, text);
  return write(name, bytes);
}

void TemporaryDirectory::write_small_model(bool tied) const {
  nlohmann::json config = small_config();
  config["tie_word_embeddings"] = tied;
  write("config.json", config.dump());
  write("tokenizer.json", small_tokenizer().dump());
  write("model.safetensors", safetensors_bytes(small_hf_tensors(tied)));
}

}  // namespace kvcrush::testing
