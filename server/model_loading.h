// Opens the model that the configuration names and starts the engine on it.
#pragma once

#include "server/backend.h"

namespace kvcrush {

// Errors: those of load_model_file, check_finite, Tokenizer::create and Engine::create. A chat template of
// the model that is not understood is no error: chat is then not available, and the reason kept. One that
// --chat-template names is.
Result<LoadedModel> load_model(const ServerConfig& config, EngineObserver& observer,
                               const LoadProgress& progress);

}  // namespace kvcrush
