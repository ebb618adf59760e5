// Typed, range-checked reads of GGUF metadata. The first error is kept and the readers then return harmless
// values, so that a caller reads all it needs and asks for the status once.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/core/status.h"
#include "engine/loader/gguf.h"

namespace kvcrush {

class MetadataReader {
 public:
  // Keeps a reference to `file`.
  MetadataReader(const GgufFile& file, std::string source) : file_(file), source_(std::move(source)) {}

  bool has(const std::string& key) const { return file_.metadata.contains(key); }
  bool is_array(const std::string& key) const;

  // Bounds are inclusive. Without a fallback the key is required.
  std::int64_t integer(const std::string& key, std::int64_t min, std::int64_t max);
  std::int64_t integer_or(const std::string& key, std::int64_t fallback, std::int64_t min, std::int64_t max);
  double number(const std::string& key, double min, double max);  // an integer value will do
  double number_or(const std::string& key, double fallback, double min, double max);
  std::string text(const std::string& key);
  std::string text_or(const std::string& key, std::string fallback);
  bool flag_or(const std::string& key, bool fallback);
  const GgufArray& strings(const std::string& key);
  const GgufArray& integers(const std::string& key);
  const GgufArray& flags(const std::string& key);   // of booleans
  const GgufArray& floats(const std::string& key);  // of 32 bits

  void fail(const std::string& message);
  const Status& status() const { return status_; }

 private:
  const GgufValue* find(const std::string& key);  // null, after fail(), when absent
  const GgufArray* find_array(const std::string& key);

  const GgufFile& file_;
  std::string source_;
  Status status_;
};

}  // namespace kvcrush
