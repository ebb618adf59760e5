// A Hugging Face config.json as a ModelConfig.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/core/status.h"
#include "engine/model/model_config.h"

namespace kvcrush {

struct HfConfig {
  ModelConfig model;  // `name` is left empty
  bool attention_bias = false;
};

// `source` names the file in errors. Errors: INVALID_ARGUMENT: a model type, activation, quantisation or rope
// scaling that is not supported (named), missing or impossible numbers.
Result<HfConfig> read_hf_config(const nlohmann::json& config, const std::string& source);

}  // namespace kvcrush
