// Typed, range-checked reads of a JSON object. The first error is kept and the readers then return harmless
// values, so that a caller reads all it needs and asks for the status once. A null field counts as absent.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "engine/core/status.h"

namespace kvcrush {

// Bounds of a JSON text. A parsed value takes up to some 20 bytes per byte of text; what walks it may
// recurse.
inline constexpr std::size_t kMaxJsonBytes = 100'000'000;
inline constexpr int kMaxJsonDepth = 64;

// INVALID_ARGUMENT where `text` is longer than kMaxJsonBytes or nested deeper than kMaxJsonDepth: to be asked
// before it is parsed.
Status check_json_text(std::string_view text, const std::string& source);
// Parses a text that must be one JSON object. Of equal keys the last counts. Errors: INVALID_ARGUMENT.
Result<nlohmann::json> parse_json_object(std::string_view text, const std::string& source);
// The same of a file. Errors: NOT_FOUND, INVALID_ARGUMENT.
Result<nlohmann::json> read_json_file(const std::string& path);

class JsonFields {
 public:
  // Keeps a reference to `object`. `source` names file and object in errors, e.g. "dir/config.json".
  JsonFields(const nlohmann::json& object, std::string source) : object_(object), source_(std::move(source)) {
    if (!object_.is_object()) fail("a JSON object is expected");
  }

  const nlohmann::json* find(const char* key) const;  // null when absent
  bool has(const char* key) const { return find(key) != nullptr; }

  // Bounds are inclusive. Without a fallback the key is required.
  std::int64_t integer(const char* key, std::int64_t min, std::int64_t max);
  std::int64_t integer_or(const char* key, std::int64_t fallback, std::int64_t min, std::int64_t max);
  double number(const char* key, double min, double max);
  double number_or(const char* key, double fallback, double min, double max);
  std::string text_or(const char* key, std::string fallback);
  bool flag_or(const char* key, bool fallback);

  void fail(const std::string& message);
  const Status& status() const { return status_; }

 private:
  void fail_value(const char* key, const std::string& allowed);

  const nlohmann::json& object_;
  std::string source_;
  Status status_;
};

}  // namespace kvcrush
