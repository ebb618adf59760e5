// Whatever runs the model on a device.
#pragma once

#include <memory>
#include <string>

#include "engine/engine.h"
#include "engine/kv_cache/kv_storage.h"
#include "engine/model/model_executor.h"

namespace kvcrush {

// device: resolved. Throws where it runs out of memory.
std::unique_ptr<ModelExecutor> make_executor(const std::shared_ptr<const ModelFile>& model,
                                             const EngineConfig& config, const EngineLimits& limits,
                                             const KvLayout& layout, const std::string& device);

}  // namespace kvcrush
