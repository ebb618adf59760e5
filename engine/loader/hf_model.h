// A Hugging Face model directory as a ModelFile.
#pragma once

#include <string>

#include "engine/core/status.h"
#include "engine/loader/model_file.h"

namespace kvcrush {

// Errors: INVALID_ARGUMENT naming the file inside `directory` and what is wrong with it.
Result<ModelFile> read_hf_model(const std::string& directory);

}  // namespace kvcrush
