#include "engine/loader/gguf_metadata.h"

#include <cmath>
#include <limits>
#include <optional>
#include <utility>

namespace kvcrush {
namespace {

const GgufArray kNoArray;

std::optional<std::int64_t> as_integer(const GgufValue& value) {
  if (const auto* number = std::get_if<std::int64_t>(&value)) return *number;
  const auto* number = std::get_if<std::uint64_t>(&value);
  if (number == nullptr || *number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(*number);
}

std::optional<double> as_number(const GgufValue& value) {
  if (const auto* number = std::get_if<double>(&value)) return *number;
  const std::optional<std::int64_t> integer = as_integer(value);
  if (!integer) return std::nullopt;
  return static_cast<double>(*integer);
}

}  // namespace

void MetadataReader::fail(const std::string& message) {
  if (status_.ok()) status_ = invalid_argument(source_ + ": " + message);
}

const GgufValue* MetadataReader::find(const std::string& key) {
  const auto found = file_.metadata.find(key);
  if (found != file_.metadata.end()) return &found->second;
  fail("metadata key '" + key + "' is missing");
  return nullptr;
}

std::int64_t MetadataReader::integer(const std::string& key, std::int64_t min, std::int64_t max) {
  const GgufValue* value = find(key);
  if (value == nullptr) return min;
  const std::optional<std::int64_t> number = as_integer(*value);
  if (number && *number >= min && *number <= max) return *number;
  fail("metadata key '" + key + "' is " + (number ? std::to_string(*number) : "not an integer that fits") +
       "; allowed: " + std::to_string(min) + " to " + std::to_string(max));
  return min;
}

std::int64_t MetadataReader::integer_or(const std::string& key, std::int64_t fallback, std::int64_t min,
                                        std::int64_t max) {
  return has(key) ? integer(key, min, max) : fallback;
}

double MetadataReader::number(const std::string& key, double min, double max) {
  const GgufValue* value = find(key);
  if (value == nullptr) return min;
  const std::optional<double> number = as_number(*value);
  if (number && *number >= min && *number <= max) return *number;  // false for NaN
  fail("metadata key '" + key + "' is " + (number ? std::to_string(*number) : "not a number") +
       "; allowed: " + std::to_string(min) + " to " + std::to_string(max));
  return min;
}

double MetadataReader::number_or(const std::string& key, double fallback, double min, double max) {
  return has(key) ? number(key, min, max) : fallback;
}

std::string MetadataReader::text(const std::string& key) {
  const GgufValue* value = find(key);
  if (value == nullptr) return {};
  if (const auto* text = std::get_if<std::string_view>(value)) return std::string(*text);
  fail("metadata key '" + key + "' is not a string");
  return {};
}

std::string MetadataReader::text_or(const std::string& key, std::string fallback) {
  return has(key) ? text(key) : std::move(fallback);
}

bool MetadataReader::flag_or(const std::string& key, bool fallback) {
  if (!has(key)) return fallback;
  if (const auto* flag = std::get_if<bool>(find(key))) return *flag;
  fail("metadata key '" + key + "' is not a boolean");
  return fallback;
}

const GgufArray* MetadataReader::find_array(const std::string& key) {
  const GgufValue* value = find(key);
  return value == nullptr ? nullptr : std::get_if<GgufArray>(value);
}

const GgufArray& MetadataReader::strings(const std::string& key) {
  const GgufArray* array = find_array(key);
  if (array != nullptr && array->element_type == GgufType::kString) return *array;
  fail("metadata key '" + key + "' is not an array of strings");
  return kNoArray;
}

bool MetadataReader::is_array(const std::string& key) const {
  const auto found = file_.metadata.find(key);
  return found != file_.metadata.end() && std::holds_alternative<GgufArray>(found->second);
}

const GgufArray& MetadataReader::flags(const std::string& key) {
  const GgufArray* array = find_array(key);
  if (array != nullptr && array->element_type == GgufType::kBool) return *array;
  fail("metadata key '" + key + "' is not an array of booleans");
  return kNoArray;
}

const GgufArray& MetadataReader::integers(const std::string& key) {
  const GgufArray* array = find_array(key);
  if (array != nullptr && array->is_integer()) return *array;
  fail("metadata key '" + key + "' is not an array of integers");
  return kNoArray;
}

const GgufArray& MetadataReader::floats(const std::string& key) {
  const GgufArray* array = find_array(key);
  if (array != nullptr && array->element_type == GgufType::kFloat32) return *array;
  fail("metadata key '" + key + "' is not an array of 32-bit floats");
  return kNoArray;
}

}  // namespace kvcrush
