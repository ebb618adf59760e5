// A model behind the engine's own scheduler, cache and executor, without the engine's thread: token ids go
// in, rows of logits come out.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/kv_cache/prefix_cache.h"
#include "engine/loader/model_file.h"
#include "engine/model/model_executor.h"

namespace kvcrush::testing {

struct LogitsJob {
  std::vector<TokenId> ids;
  // Unset: all ids are a prompt, and logits are wanted after each. Set: the first so many are a prompt, the
  // others come one a step as if they had been sampled, and logits are wanted from the prompt's last token
  // on.
  std::optional<int> decode_from;
};

class ModelDriver {
 public:
  ModelDriver(std::shared_ptr<const ModelFile> model, const EngineConfig& config);

  const ModelConfig& model_config() const { return model_->config; }
  // Runs the jobs as one ragged batch in steps of at most max_batch_tokens, <= the config's; rows [wanted,
  // vocab] of each.
  std::vector<std::vector<float>> run(const std::vector<LogitsJob>& jobs, int max_batch_tokens);

 private:
  std::unique_ptr<Sequence> make_sequence(const LogitsJob& job, SequenceId id);
  // Moves the sequence on by its chunk, and gives it the next token to decode, where there is one. True: it
  // is done.
  bool advance(const ScheduledChunk& chunk, const LogitsJob& job);

  std::shared_ptr<const ModelFile> model_;
  EngineConfig config_;
  EngineLimits limits_;
  std::unique_ptr<ModelExecutor> executor_;
  std::unique_ptr<BlockPool> pool_;
  std::unique_ptr<PrefixCache> prefixes_;
};

// The value, or std::runtime_error with the status' message.
template <typename T>
T value_or_throw(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().message());
  return std::move(result).value();
}

}  // namespace kvcrush::testing
