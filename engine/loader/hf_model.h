// A Hugging Face model directory as a model.
#pragma once

#include <string>

#include "engine/loader/model_reading.h"

namespace kvcrush {

// Problems name the file inside `directory` and what is wrong with it.
ModelReading read_hf_model(const std::string& directory);

}  // namespace kvcrush
