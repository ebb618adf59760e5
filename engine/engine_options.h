// Checks an EngineConfig against the model it is for.
#pragma once

#include <string>

#include "engine/core/status.h"
#include "engine/engine.h"
#include "engine/kv_cache/kv_storage.h"

namespace kvcrush {

struct ModelFile;

// Bytes that `config` leaves for the KV pool of a GPU; RESOURCE_EXHAUSTED naming the sizes where that is
// none.
Result<std::uint64_t> gpu_kv_memory_bytes(const ModelFile& model, const EngineConfig& config,
                                          const std::string& device, int max_context_tokens);

// INVALID_ARGUMENT naming the field, its value and what is allowed.
Status check_config(const EngineConfig& config);
Status check_heads(const ModelConfig& model);
Result<EngineLimits> derive_limits(const ModelConfig& model, const EngineConfig& config,
                                   const KvLayout& layout, KvDtype dtype);

}  // namespace kvcrush
