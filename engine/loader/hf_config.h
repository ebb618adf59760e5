// A Hugging Face config.json as a ModelConfig.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/core/status.h"
#include "engine/loader/architecture.h"

namespace kvcrush {

struct HfConfig {
  ModelConfig model;  // `name` is left empty
  const Architecture* architecture = nullptr;
  bool text_part = false;  // the text model of one that sees pictures, too: its tensors have another prefix
};

// `source` names the file in errors. Errors: INVALID_ARGUMENT: a model type, activation, quantisation or rope
// scaling that is not supported (named), missing or impossible numbers.
Result<HfConfig> read_hf_config(const nlohmann::json& config, const std::string& source);

}  // namespace kvcrush
