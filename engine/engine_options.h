// Checks an EngineConfig against the model it is for.
#pragma once

#include <string>

#include "engine/core/status.h"
#include "engine/engine.h"

namespace kvcrush {

struct ModelFile;

// `config` with the KV memory that weights and workspace leave of a GPU; RESOURCE_EXHAUSTED naming the sizes
// where that is none.
Result<EngineConfig> fill_gpu(const ModelFile& model, EngineConfig config, const std::string& device);

// INVALID_ARGUMENT for what only a GPU has, where `device` is "cpu".
Status check_device_options(const EngineConfig& config, const std::string& device);
// What "auto" means on a resolved device: bf16 on a GPU; on the CPU it stays "auto". INVALID_ARGUMENT for a
// type that the device does not compute in.
Result<std::string> resolve_weight_dtype(const std::string& name, const std::string& device);

// INVALID_ARGUMENT naming the field, its value and what is allowed.
Status check_config(const EngineConfig& config);

}  // namespace kvcrush
