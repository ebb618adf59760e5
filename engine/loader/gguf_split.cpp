#include "engine/loader/gguf_split.h"

#include <charconv>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <utility>

#include "engine/core/readable.h"
#include "engine/loader/gguf_metadata.h"

namespace kvcrush {
namespace {

constexpr std::string_view kSuffix = ".gguf";
constexpr std::size_t kDigits = 5;

// Takes "<prefix>NNNNN" off the end of `text`; 0 where it does not end so.
int take_number(std::string_view& text, std::string_view prefix) {
  if (text.size() < prefix.size() + kDigits) return 0;
  const std::string_view digits = text.substr(text.size() - kDigits);
  const std::string_view rest = text.substr(0, text.size() - kDigits);
  int number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size() || number < 1) return 0;
  if (!rest.ends_with(prefix)) return 0;
  text = rest.substr(0, rest.size() - prefix.size());
  return number;
}

// What a file says of the split that it is from.
struct SplitKeys {
  std::int64_t index = 0;
  std::int64_t count = 1;
  std::int64_t num_tensors = 0;
};

// A model in one file need not say so.
Result<SplitKeys> read_split_keys(const GgufFile& file, const std::string& source, bool is_alone) {
  constexpr std::int64_t kMaxParts = 99999;
  MetadataReader metadata(file, source);
  SplitKeys keys;
  if (is_alone && !metadata.has("split.count")) return keys;
  keys.count = metadata.integer("split.count", is_alone ? 0 : 1, kMaxParts);
  if (metadata.status().ok() && is_alone && keys.count <= 1) return SplitKeys{};
  keys.index = metadata.integer("split.no", 0, keys.count - 1);
  keys.num_tensors = metadata.integer("split.tensors.count", 0, std::numeric_limits<std::int32_t>::max());
  if (!metadata.status().ok()) return metadata.status();
  return keys;
}

Status check_keys(const GgufFile& file, std::span<const GgufPart> parts, std::size_t index,
                  std::int64_t& num_tensors) {
  const std::string& source = parts[index].source;
  const Result<SplitKeys> keys = read_split_keys(file, source, parts.size() == 1);
  KVCRUSH_RETURN_IF_ERROR(keys.status());
  const auto mismatch = [&](const char* key, std::int64_t found, std::int64_t wanted, const char* why) {
    return invalid_argument(source + ": metadata key '" + key + "' is " + std::to_string(found) + "; " + why +
                            " " + std::to_string(wanted));
  };
  const auto num_parts = static_cast<std::int64_t>(parts.size());
  if (keys->count != num_parts && num_parts == 1) {
    return invalid_argument(source + ": is one of " + std::to_string(keys->count) +
                            " parts of a model (metadata key 'split.count'); the first must be called " +
                            SplitName{"NAME", 1, static_cast<int>(keys->count)}.of(1) +
                            ", and the others in the same way");
  }
  if (keys->count != num_parts)
    return mismatch("split.count", keys->count, num_parts, "the files' names demand");
  const auto position = static_cast<std::int64_t>(index);
  if (keys->index != position) return mismatch("split.no", keys->index, position, "the file's name demands");
  if (index == 0) num_tensors = keys->num_tensors;
  if (keys->num_tensors != num_tensors) {
    const std::string why = "the first part, " + parts[0].source + ", says";
    return mismatch("split.tensors.count", keys->num_tensors, num_tensors, why.c_str());
  }
  return {};
}

}  // namespace

std::string SplitName::of(int other_number) const {
  char numbers[32];
  std::snprintf(numbers, sizeof numbers, "-%05d-of-%05d", other_number, count);
  return stem + numbers + std::string(kSuffix);
}

std::optional<SplitName> parse_split_name(std::string_view path) {
  if (!path.ends_with(kSuffix)) return std::nullopt;
  path.remove_suffix(kSuffix.size());
  SplitName name;
  name.count = take_number(path, "-of-");
  if (name.count == 0) return std::nullopt;
  name.number = take_number(path, "-");
  if (name.number == 0 || name.number > name.count) return std::nullopt;
  name.stem = path;
  return name;
}

Result<std::vector<std::string>> gguf_part_paths(const std::string& path) {
  const std::optional<SplitName> name = parse_split_name(path);
  if (!name) return std::vector<std::string>{path};
  if (name->number != 1) {
    return invalid_argument(path + ": is part " + std::to_string(name->number) + " of " +
                            std::to_string(name->count) + " of a model; name the first, " + name->of(1));
  }
  std::vector<std::string> paths;
  for (int number = 1; number <= name->count; ++number) paths.push_back(name->of(number));
  return paths;
}

Result<GgufFile> parse_gguf_parts(std::span<const GgufPart> parts) {
  GgufFile whole;
  std::map<std::string_view, std::size_t> part_of;  // tensor name to the part that has it
  std::int64_t num_tensors = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    Result<GgufFile> file = parse_gguf(parts[i].bytes, parts[i].source);
    KVCRUSH_RETURN_IF_ERROR(file.status());
    KVCRUSH_RETURN_IF_ERROR(check_keys(*file, parts, i, num_tensors));
    if (i == 0) {
      whole.version = file->version;
      whole.alignment = file->alignment;
      whole.metadata = std::move(file->metadata);
    }
    for (GgufTensor& tensor : file->tensors) {
      const auto [other, is_new] = part_of.emplace(tensor.name, i);
      if (!is_new) {
        return invalid_argument(parts[i].source + ": tensor " + in_quotes(tensor.name) + " is in " +
                                parts[other->second].source + " too");
      }
      whole.tensors.push_back(std::move(tensor));
    }
  }
  if (parts.size() > 1 && static_cast<std::int64_t>(part_of.size()) != num_tensors) {
    return invalid_argument(parts[0].source + ": its " + std::to_string(parts.size()) + " parts have " +
                            std::to_string(part_of.size()) +
                            " tensors; metadata key 'split.tensors.count' is " + std::to_string(num_tensors));
  }
  return whole;
}

}  // namespace kvcrush
