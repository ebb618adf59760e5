// Writers of small model files for the loader's tests: they put down what they are told, valid or not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

namespace kvcrush::testing {

using Bytes = std::vector<std::byte>;

inline std::span<const std::byte> view(const Bytes& bytes) {
  return {bytes.data(), bytes.size()};
}

template <typename T>
void append(Bytes& bytes, const T& value) {
  const std::size_t offset = bytes.size();
  bytes.resize(offset + sizeof(T));
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}
void append_text(Bytes& bytes, const std::string& text);

// Bytes of float32 values.
Bytes f32_bytes(const std::vector<float>& values);

class GgufBuilder {
 public:
  std::uint32_t version = 3;
  std::uint64_t alignment = 32;

  void text(const std::string& key, const std::string& value);
  void u32(const std::string& key, std::uint32_t value);
  void f32(const std::string& key, float value);
  void flag(const std::string& key, bool value);
  void texts(const std::string& key, const std::vector<std::string>& values);
  void i32s(const std::string& key, const std::vector<std::int32_t>& values);
  // `payload`: type and value as stored.
  void raw(const std::string& key, const Bytes& payload);
  void remove(const std::string& key);
  void remove_all_entries() { entries_.clear(); }

  // Shape outermost first; type is ggml's number. The data is placed behind the previous tensor's, aligned.
  void tensor(const std::string& name, std::vector<std::uint64_t> shape, std::uint32_t type, Bytes data);
  void remove_tensor(const std::string& name);
  void keep_tensors(const std::function<bool(const std::string& name)>& wanted);
  void take_tensors(const GgufBuilder& from, const std::vector<std::string>& names);
  std::vector<std::string> tensor_names() const;
  void move_tensor(const std::string& name, std::uint64_t offset);  // declares this offset, data stays

  Bytes build() const;

 private:
  struct Entry {
    std::string key;
    Bytes payload;
  };
  struct Tensor {
    std::string name;
    std::vector<std::uint64_t> shape;
    std::uint32_t type = 0;
    Bytes data;
    std::int64_t forced_offset = -1;
  };
  std::vector<Entry> entries_;
  std::vector<Tensor> tensors_;
};

// A complete llama model: 2 layers, hidden 8, intermediate 12, 2 query heads and 1 KV head of 4, 6 tokens,
// all F32. Values of tensor number t are t + index / 1000.
GgufBuilder small_gguf(bool tied = true);

// The same model's sizes as config.json.
nlohmann::json small_config();
// A byte-level BPE tokenizer.json with 6 tokens: a, b, ab, <|endoftext|>, <|im_end|>, and the user's own
// <tool>.
nlohmann::json small_tokenizer();

struct HfTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  Bytes data;
};
std::vector<HfTensor> small_hf_tensors(bool tied = true);
Bytes safetensors_bytes(const std::vector<HfTensor>& tensors);
Bytes safetensors_bytes(const std::string& header, const Bytes& data);

// A directory of its own, removed with its contents at the end of the scope.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string path() const { return path_.string(); }
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::string write(const std::string& name, const Bytes& bytes) const;  // returns the path
  std::string write(const std::string& name, const std::string& text) const;
  void write_small_model(bool tied = true) const;  // config.json, tokenizer.json, model.safetensors

 private:
  std::filesystem::path path_;
};

}  // namespace kvcrush::testing
