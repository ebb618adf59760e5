// What the server needs of an engine. The product puts the Engine behind it (model_loading), tests a scripted
// one.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "engine/engine.h"
#include "engine/tokenizer/chat_abilities.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/config.h"

namespace kvcrush {

// Each function means what the one of the same name in Engine means.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual Status submit(EngineRequest request, std::shared_ptr<TokenStream> stream) = 0;
  virtual Status finish(const std::string& request_id, FinishReason reason, std::optional<int> index) = 0;
  virtual int max_new_tokens(int num_prompt_tokens, const CachePolicy& policy) const = 0;
  virtual void begin_drain() = 0;
  virtual bool wait_idle(std::chrono::milliseconds timeout) = 0;
  virtual EngineStats stats() const = 0;
  virtual EngineLimits limits() const = 0;
};

struct LoadedModel {
  std::unique_ptr<Backend> backend;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;  // null: chat is not available
  std::string chat_template_source;
  ChatAbilities chat_abilities;
  std::string no_chat_reason;  // why chat is not available, when it is not
  std::string name;            // shown to clients
  ModelConfig config;
  std::uint64_t num_parameters = 0;
  std::uint64_t weight_bytes = 0;
  std::string weight_dtype;
};

// Told before each stage of loading what comes next, e.g. "reading model file".
using LoadProgress = std::function<void(std::string_view stage)>;

// The observer outlives the backend that is returned.
using ModelLoader = std::function<Result<LoadedModel>(const ServerConfig& config, EngineObserver& observer,
                                                      const LoadProgress& progress)>;

}  // namespace kvcrush
