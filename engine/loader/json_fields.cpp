#include "engine/loader/json_fields.h"

#include <algorithm>

#include "engine/loader/mapped_file.h"

namespace kvcrush {

using nlohmann::json;

namespace {

// Deepest nesting of arrays and objects in a text that may be cut or broken: as deep as its parser gets.
int json_depth(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

Status check_json_text(std::string_view text, const std::string& source) {
  if (text.size() > kMaxJsonBytes) {
    return invalid_argument(source + ": the JSON has " + std::to_string(text.size()) +
                            " bytes; allowed: up to " + std::to_string(kMaxJsonBytes));
  }
  if (json_depth(text) <= kMaxJsonDepth) return {};
  return invalid_argument(source + ": the JSON is nested deeper than " + std::to_string(kMaxJsonDepth));
}

Result<json> parse_json_object(std::string_view text, const std::string& source) {
  KVCRUSH_RETURN_IF_ERROR(check_json_text(text, source));
  json object = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (object.is_discarded()) return invalid_argument(source + ": is not valid JSON");
  if (!object.is_object()) return invalid_argument(source + ": a JSON object is expected");
  return object;
}

Result<json> read_json_file(const std::string& path) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok()) return file.status();
  const auto bytes = file->bytes();
  return parse_json_object({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

void JsonFields::fail(const std::string& message) {
  if (status_.ok()) status_ = invalid_argument(source_ + ": " + message);
}

void JsonFields::fail_value(const char* key, const std::string& allowed) {
  const json* value = find(key);
  if (value == nullptr) return fail("field '" + std::string(key) + "' is missing");
  fail("field '" + std::string(key) + "' is " +
       value->dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 80) + "; allowed: " + allowed);
}

const json* JsonFields::find(const char* key) const {
  if (!object_.is_object()) return nullptr;
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::int64_t JsonFields::integer(const char* key, std::int64_t min, std::int64_t max) {
  const json* value = find(key);
  if (value != nullptr && value->is_number_integer()) {
    // Unsigned values beyond int64 would wrap.
    const bool huge =
        value->is_number_unsigned() && value->get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX);
    const std::int64_t number = huge ? 0 : value->get<std::int64_t>();
    if (!huge && number >= min && number <= max) return number;
  }
  fail_value(key, "integers from " + std::to_string(min) + " to " + std::to_string(max));
  return min;
}

std::int64_t JsonFields::integer_or(const char* key, std::int64_t fallback, std::int64_t min,
                                    std::int64_t max) {
  return has(key) ? integer(key, min, max) : fallback;
}

double JsonFields::number(const char* key, double min, double max) {
  const json* value = find(key);
  if (value != nullptr && value->is_number()) {
    const double number = value->get<double>();
    if (number >= min && number <= max) return number;
  }
  fail_value(key, "numbers from " + std::to_string(min) + " to " + std::to_string(max));
  return min;
}

double JsonFields::number_or(const char* key, double fallback, double min, double max) {
  return has(key) ? number(key, min, max) : fallback;
}

std::string JsonFields::text_or(const char* key, std::string fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (value->is_string()) return value->get<std::string>();
  fail_value(key, "strings");
  return fallback;
}

bool JsonFields::flag_or(const char* key, bool fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  fail_value(key, "true, false");
  return fallback;
}

}  // namespace kvcrush
