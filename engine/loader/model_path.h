// From what a person names to what is read.
//
//   a file                                  GGUF; of a split model the first part
//   a folder with config.json               Hugging Face, where safetensors lie beside it
//   a folder with GGUF files                the only model among them, whole or split
//   models--org--name                       one model of a Hugging Face cache: the snapshot that refs/main
//     refs/main, snapshots/COMMIT/...       names, else the only one; its files are links to ../../blobs
//   a folder with models--org--name         the cache itself, where it has one model
#pragma once

#include <string>
#include <string_view>

#include "engine/core/status.h"

namespace kvcrush {

inline constexpr std::string_view kCachePrefix = "models--";

struct ModelPath {
  std::string path;
  bool is_folder = false;  // of config.json and safetensors; else a GGUF file
};

// Looks at names alone, and opens no file but refs/main. Errors name the path: NOT_FOUND where there is
// nothing, INVALID_ARGUMENT for links that lead nowhere or in a circle, folders that may not be read, and
// folders that hold no model or several (they are listed).
Result<ModelPath> resolve_model_path(const std::string& path);

}  // namespace kvcrush
