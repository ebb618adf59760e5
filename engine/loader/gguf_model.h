// Parsed GGUF files as a model.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "engine/core/status.h"
#include "engine/loader/gguf_split.h"
#include "engine/loader/model_file.h"
#include "engine/loader/model_reading.h"

namespace kvcrush {

// The model's files, in order; their bytes must outlive the result, whose `mapping` is left empty for the
// caller to set.
ModelReading read_gguf_parts(std::span<const GgufPart> parts);

// A whole model in one file. `source` names the file in errors. Errors: INVALID_ARGUMENT.
Result<ModelFile> read_gguf_model(std::span<const std::byte> bytes, const std::string& source);

}  // namespace kvcrush
