// What a model's shape and the memory for its KV cache allow. No torch here: who plans a deployment asks too.
#pragma once

#include <string>

#include "engine/core/kv_dtype.h"
#include "engine/core/status.h"
#include "engine/engine.h"
#include "engine/kv_cache/kv_format.h"

namespace kvcrush {

// INVALID_ARGUMENT naming the field, its value and what is allowed.
Status check_heads(const ModelConfig& model);
Result<EngineLimits> derive_limits(const ModelConfig& model, const EngineConfig& config,
                                   const KvLayout& layout, KvDtype dtype);

}  // namespace kvcrush
