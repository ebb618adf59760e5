#include "engine/loader/json_fields.h"

#include "engine/loader/mapped_file.h"

namespace kvcrush {

using nlohmann::json;

Result<json> read_json_file(const std::string& path) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok()) return file.status();
  const auto bytes = file->bytes();
  const auto* begin = reinterpret_cast<const char*>(bytes.data());
  json object = json::parse(begin, begin + bytes.size(), nullptr, /*allow_exceptions=*/false);
  if (object.is_discarded()) return invalid_argument(path + ": is not valid JSON");
  if (!object.is_object()) return invalid_argument(path + ": a JSON object is expected");
  return object;
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
