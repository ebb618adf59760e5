// What a model file says of its sizes, whatever its architecture: enough to tell a person what it is, not to
// run it. Fields that are missing or out of range stay 0.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "engine/loader/gguf.h"
#include "engine/model/model_config.h"

namespace kvcrush {

ModelConfig sketch_gguf_config(const GgufFile& file, const std::string& source);
ModelConfig sketch_hf_config(const nlohmann::json& config);

}  // namespace kvcrush
