#include "engine/loader/safetensors.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "engine/core/readable.h"
#include "engine/loader/byte_cursor.h"
#include "engine/loader/json_fields.h"
#include "engine/loader/weight_type.h"

namespace kvcrush {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxDimensions = 8;

struct Extent {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::string name;
};

std::optional<WeightDtype> weight_dtype(const std::string& name) {
  if (name == "F32") return WeightDtype::kF32;
  if (name == "F16") return WeightDtype::kF16;
  if (name == "BF16") return WeightDtype::kBF16;
  return std::nullopt;
}

// JSON keeps the last of equal keys; here two tensors of one name are an error, so the top level's keys are
// watched.
Result<json> parse_header(std::string_view text, const std::string& source) {
  KVCRUSH_RETURN_IF_ERROR(check_json_text(text, source));
  std::set<std::string> keys;
  std::string duplicate;
  const json::parser_callback_t watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::key && depth == 1) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.insert(key).second && duplicate.empty()) duplicate = key;
    }
    return true;
  };
  json header = json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (header.is_discarded() || !header.is_object())
    return invalid_argument(source + ": the header is no JSON object");
  if (!duplicate.empty())
    return invalid_argument(source + ": tensor " + in_quotes(duplicate) + " occurs twice");
  return header;
}

// An array of unsigned integers below 2^63; nullopt for anything else.
std::optional<std::vector<std::int64_t>> unsigned_list(const json* value) {
  if (value == nullptr || !value->is_array() || value->size() > kMaxDimensions) return std::nullopt;
  std::vector<std::int64_t> numbers;
  for (const json& item : *value) {
    if (!item.is_number_unsigned() || item.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) {
      return std::nullopt;
    }
    numbers.push_back(item.get<std::int64_t>());
  }
  return numbers;
}

Status read_tensor(const std::string& name, const json& entry, std::span<const std::byte> data,
                   const std::string& source, NamedWeight& weight, Extent& extent) {
  const std::string where = source + ": tensor " + in_quotes(name);
  JsonFields fields(entry, where);
  const std::string type = fields.text_or("dtype", "");
  const auto shape = unsigned_list(fields.find("shape"));
  const auto offsets = unsigned_list(fields.find("data_offsets"));
  if (!fields.status().ok()) return fields.status();
  const std::optional<WeightDtype> dtype = weight_dtype(type);
  if (!dtype) return invalid_argument(where + " has type " + in_quotes(type) + "; supported: F32, F16, BF16");
  if (!shape) return invalid_argument(where + " has no valid 'shape'");
  if (!offsets || offsets->size() != 2) return invalid_argument(where + " has no valid 'data_offsets'");
  const std::int64_t begin = (*offsets)[0];
  const std::int64_t end = (*offsets)[1];
  if (begin > end || static_cast<std::uint64_t>(end) > data.size()) {
    return invalid_argument(where + " has data_offsets " + shape_text(*offsets) + "; the file has " +
                            std::to_string(data.size()) + " bytes of tensor data");
  }
  const std::optional<std::int64_t> num_bytes = checked_num_bytes(*dtype, *shape);
  if (!num_bytes || *num_bytes != end - begin) {
    return invalid_argument(where + " of type " + type + " and shape " + shape_text(*shape) +
                            " does not fit its " + std::to_string(end - begin) + " bytes");
  }
  weight.name = name;
  weight.view.dtype = *dtype;
  weight.view.shape = *shape;
  weight.view.stored = {source, name};
  weight.view.bytes = data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  extent = {static_cast<std::uint64_t>(begin), static_cast<std::uint64_t>(end), name};
  return {};
}

Status check_overlap(std::vector<Extent> extents, const std::string& source) {
  std::sort(extents.begin(), extents.end(), [](const Extent& left, const Extent& right) {
    return std::pair(left.begin, left.end) < std::pair(right.begin, right.end);
  });
  for (std::size_t i = 1; i < extents.size(); ++i) {
    if (extents[i - 1].end > extents[i].begin) {
      return invalid_argument(source + ": tensors " + in_quotes(extents[i - 1].name) + " and " +
                              in_quotes(extents[i].name) + " overlap at data offset " +
                              std::to_string(extents[i].begin));
    }
  }
  return {};
}

Status bad_shard_name(const std::string& path, const std::string& tensor, const std::string& name) {
  return invalid_argument(path + ": tensor " + in_quotes(tensor) + " is mapped to " + in_quotes(name) +
                          "; the name of a .safetensors file in this folder is expected");
}

// A plain name: an index must not point outside its folder. (What a link in the folder points to is its
// owner's business: downloads are stored as links.)
bool is_shard_name(std::string_view name) {
  return name.ends_with(".safetensors") && std::all_of(name.begin(), name.end(), [](char c) {
           return c > 0x20 && c < 0x7F && c != '/' && c != '\\';
         });
}

// Shard file to the tensors that the index puts there.
Result<std::map<std::string, std::set<std::string>>> read_index(const std::string& path) {
  Result<json> index = read_json_file(path);
  if (!index.ok()) return index.status();
  const auto weight_map = index->find("weight_map");
  if (weight_map == index->end() || !weight_map->is_object() || weight_map->empty()) {
    return invalid_argument(path + ": field 'weight_map' must be a non-empty object");
  }
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [tensor, file] : weight_map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : std::string();
    if (!is_shard_name(name)) {
      return bad_shard_name(path, tensor, name);
    }
    shards[name].insert(tensor);
  }
  return shards;
}

Status append_file(const std::string& path, SafetensorsModel& model, std::set<std::string>* names) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok()) return invalid_argument(file.status().message());
  Result<std::vector<NamedWeight>> weights = parse_safetensors(file->bytes(), path);
  if (!weights.ok()) return weights.status();
  for (NamedWeight& weight : *weights) {
    if (names != nullptr && names->erase(weight.name) == 0) {
      return invalid_argument(path + ": tensor " + in_quotes(weight.name) +
                              " is not listed for this file in the index");
    }
    model.weights.push_back(std::move(weight));
  }
  if (names != nullptr && !names->empty()) {
    return invalid_argument(path + ": tensor " + in_quotes(*names->begin()) + " of the index is missing");
  }
  model.files.push_back(std::move(*file));
  return {};
}

}  // namespace

Result<std::vector<NamedWeight>> parse_safetensors(std::span<const std::byte> bytes,
                                                   const std::string& source) {
  ByteCursor cursor(bytes, source);
  std::uint64_t header_bytes = 0;
  if (!cursor.read(header_bytes, "header length")) return cursor.status();
  if (header_bytes > kMaxJsonBytes) {
    cursor.fail("header length is " + std::to_string(header_bytes) + "; allowed: up to " +
                std::to_string(kMaxJsonBytes));
    return cursor.status();
  }
  std::span<const std::byte> text;
  if (!cursor.read_bytes(text, header_bytes, "header")) return cursor.status();
  Result<json> header = parse_header({reinterpret_cast<const char*>(text.data()), text.size()}, source);
  if (!header.ok()) return header.status();

  const std::span<const std::byte> data = bytes.subspan(cursor.offset());
  std::vector<NamedWeight> weights;
  std::vector<Extent> extents;
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") continue;
    NamedWeight weight;
    Extent extent;
    KVCRUSH_RETURN_IF_ERROR(read_tensor(name, entry, data, source, weight, extent));
    weights.push_back(std::move(weight));
    extents.push_back(std::move(extent));
  }
  KVCRUSH_RETURN_IF_ERROR(check_overlap(std::move(extents), source));
  return weights;
}

Result<SafetensorsModel> open_safetensors(const std::string& directory) {
  const std::filesystem::path folder(directory);
  const std::string single = (folder / "model.safetensors").string();
  const std::string index = single + ".index.json";
  const auto is_there =
      [](const std::string& path) {  // links to nowhere too: opening them tells what is wrong
        std::error_code ignored;
        return std::filesystem::exists(std::filesystem::symlink_status(path, ignored));
      };
  SafetensorsModel model;
  if (is_there(index)) {
    Result<std::map<std::string, std::set<std::string>>> shards = read_index(index);
    if (!shards.ok()) return shards.status();
    for (auto& [name, tensors] : *shards) {
      KVCRUSH_RETURN_IF_ERROR(append_file((folder / name).string(), model, &tensors));
    }
  } else if (is_there(single)) {
    KVCRUSH_RETURN_IF_ERROR(append_file(single, model, nullptr));
  } else {
    return invalid_argument(directory + ": has neither model.safetensors nor model.safetensors.index.json");
  }
  return model;
}

}  // namespace kvcrush
