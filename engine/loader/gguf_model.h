// A parsed GGUF file as a ModelFile.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "engine/core/status.h"
#include "engine/loader/model_file.h"

namespace kvcrush {

// `bytes` is the whole file and must outlive the result, whose `mapping` is left empty for the caller to set.
// `source` names the file in errors. Errors: INVALID_ARGUMENT.
Result<ModelFile> read_gguf_model(std::span<const std::byte> bytes, const std::string& source);

}  // namespace kvcrush
