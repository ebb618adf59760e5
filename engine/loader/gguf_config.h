// GGUF metadata, and the small tensors that belong to RoPE, as a ModelConfig.
#pragma once

#include <string>
#include <vector>

#include "engine/core/status.h"
#include "engine/loader/architecture.h"
#include "engine/loader/gguf.h"
#include "engine/loader/weight_map.h"

namespace kvcrush {

// `weights`: all tensors of the model. `source` names the file in errors. Errors: INVALID_ARGUMENT.
Result<ModelConfig> read_gguf_config(const GgufFile& file, const Architecture& architecture,
                                     const std::vector<NamedWeight>& weights, const std::string& source);

}  // namespace kvcrush
