// The safetensors container: u64 header length, a JSON header, then the tensors' bytes.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "engine/core/status.h"
#include "engine/loader/mapped_file.h"
#include "engine/loader/weight_map.h"

namespace kvcrush {

// Views into `bytes`, the whole file, which must outlive them. `source` names the file in errors.
// Errors: INVALID_ARGUMENT: truncated, a header that is no JSON object or repeats a tensor, a dtype other
// than F32, F16, BF16, offsets outside the file, that overlap or do not fit the shape.
Result<std::vector<NamedWeight>> parse_safetensors(std::span<const std::byte> bytes,
                                                   const std::string& source);

struct SafetensorsModel {
  std::vector<MappedFile> files;
  std::vector<NamedWeight> weights;  // views into `files`
};

// Opens `directory`/model.safetensors, or the shards that model.safetensors.index.json lists.
// Errors: INVALID_ARGUMENT: neither is there, a shard is missing or has other tensors than the index says, or
// as above.
Result<SafetensorsModel> open_safetensors(const std::string& directory);

}  // namespace kvcrush
