// Checks an EngineConfig against the model it is for.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "engine/core/status.h"
#include "engine/engine.h"
#include "engine/kv_cache/kv_storage.h"

namespace kvcrush {

// "cpu", "cuda" or "cuda:N"; INVALID_ARGUMENT for anything else, and for CUDA in a build without it.
Result<at::Device> parse_device(const std::string& name);

// INVALID_ARGUMENT naming the field, its value and what is allowed.
Status check_config(const EngineConfig& config);
Status check_heads(const ModelConfig& model);
Result<EngineLimits> derive_limits(const ModelConfig& model, const EngineConfig& config,
                                   const KvLayout& layout, KvDtype dtype);

}  // namespace kvcrush
