#include "server/model_loading.h"

#include <malloc.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "engine/loader/model_file.h"
#include "engine/loader/weight_check.h"
#include "engine/tokenizer/incremental_decoder.h"
#include "server/logging.h"
#include "server/small_file.h"

namespace kvcrush {
namespace {

class EngineBackend final : public Backend {
 public:
  explicit EngineBackend(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}

  Status submit(EngineRequest request, std::shared_ptr<TokenStream> stream) override {
    return engine_->submit(std::move(request), std::move(stream));
  }
  Status finish(const std::string& request_id, FinishReason reason, std::optional<int> index) override {
    return engine_->finish(request_id, reason, index);
  }
  int max_new_tokens(int num_prompt_tokens, const CachePolicy& policy) const override {
    return engine_->max_new_tokens(num_prompt_tokens, policy);
  }
  void begin_drain() override { engine_->begin_drain(); }
  bool wait_idle(std::chrono::milliseconds timeout) override { return engine_->wait_idle(timeout); }
  EngineStats stats() const override { return engine_->stats(); }
  EngineLimits limits() const override { return engine_->limits(); }

 private:
  std::unique_ptr<Engine> engine_;
};

void use_chat_template(std::shared_ptr<const ChatTemplate> chat_template, std::string source,
                       LoadedModel& loaded) {
  loaded.chat_abilities = find_chat_abilities(*chat_template);
  loaded.chat_template = std::move(chat_template);
  loaded.chat_template_source = std::move(source);
}

Status read_chat_template(const std::string& path, LoadedModel& loaded) {
  const NamedFile file{"--chat-template", path};
  Result<std::string> source = read_small_file(file);
  KVCRUSH_RETURN_IF_ERROR(source.status());
  Result<std::shared_ptr<const ChatTemplate>> parsed = ChatTemplate::parse(*source);
  if (!parsed.ok()) return refused_file(file, parsed.status().message());
  use_chat_template(std::move(parsed).value(), std::move(source).value(), loaded);
  return {};
}

// The model's own. Whoever wants only text is served without it.
void load_chat_template(const std::string& source, LoadedModel& loaded) {
  if (source.empty()) {
    loaded.no_chat_reason = "the model has no chat template";
    return;
  }
  Result<std::shared_ptr<const ChatTemplate>> parsed = ChatTemplate::parse(source);
  if (parsed.ok()) {
    use_chat_template(std::move(parsed).value(), source, loaded);
  } else {
    loaded.no_chat_reason = "the model's chat template is not understood: " + parsed.status().message();
  }
}

int num_threads(const ServerConfig& config) {
  if (config.engine.num_threads > 0) return config.engine.num_threads;
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

}  // namespace

Result<LoadedModel> load_model(const ServerConfig& config, EngineObserver& observer,
                               const LoadProgress& progress) {
  LoadedModel loaded;
  // First, because a mistake in it is the soonest found.
  if (!config.chat_template_path.empty())
    KVCRUSH_RETURN_IF_ERROR(read_chat_template(config.chat_template_path, loaded));

  progress("reading model file");
  Result<ModelFile> file = load_model_file(config.model_path);
  KVCRUSH_RETURN_IF_ERROR(file.status());
  LogLine(spdlog::level::info, "model_file").with("path", file->path);

  loaded.config = file->config;
  // A file may call itself anything; answers and metrics are UTF-8.
  loaded.name = replace_broken_utf8(config.model_name.empty() ? file->config.name : config.model_name);
  loaded.num_parameters = file->num_parameters;
  loaded.weight_bytes = file->weight_bytes;
  loaded.weight_dtype = file->weight_dtype;

  progress("building tokenizer");
  Result<std::shared_ptr<const Tokenizer>> tokenizer = Tokenizer::create(file->tokenizer);
  KVCRUSH_RETURN_IF_ERROR(tokenizer.status());
  loaded.tokenizer = std::move(tokenizer).value();
  if (loaded.chat_template == nullptr) load_chat_template(file->tokenizer.chat_template, loaded);
  // The engine keeps the file, and has no use for a second vocabulary.
  TokenizerSpec for_engine;
  for_engine.stop_ids = std::move(file->tokenizer.stop_ids);
  file->tokenizer = std::move(for_engine);

  // Reads the file from the disk, too, so that little of this time is lost.
  progress("checking weights");
  KVCRUSH_RETURN_IF_ERROR(check_finite(*file, num_threads(config)));

  progress("loading weights and allocating the KV pool");
  Result<std::unique_ptr<Engine>> engine =
      Engine::create(std::make_shared<const ModelFile>(std::move(file).value()), config.engine, observer);
  KVCRUSH_RETURN_IF_ERROR(engine.status());
  loaded.config = (*engine)->model_config();
  loaded.backend = std::make_unique<EngineBackend>(std::move(engine).value());
  malloc_trim(0);  // what loading left behind goes back to the system
  return loaded;
}

}  // namespace kvcrush
