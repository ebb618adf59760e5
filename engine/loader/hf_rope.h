// RoPE as config.json describes it: `rope_theta` with `rope_scaling`, or the newer `rope_parameters`, which
// may have one entry for each type of layer.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/core/status.h"
#include "engine/model/model_config.h"

namespace kvcrush {

// Fills model.rope and model.window_rope; head_dim and max_context_tokens are set, and the latter grows where
// the scaling says how far it reaches. `config` has the defaults of its architecture. Errors:
// INVALID_ARGUMENT.
Status read_hf_rope(const nlohmann::json& config, const std::string& source, ModelConfig& model);

}  // namespace kvcrush
