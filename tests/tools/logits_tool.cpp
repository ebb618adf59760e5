// Logits of a model, for tests in Python: one JSON request a line on stdin, one JSON answer a line on stdout.
//   {"op": "open", "model": path, "weight_dtype": "f32" | "auto", "max_batch_tokens", "max_context_tokens",
//    "kv_memory_bytes", "num_threads"}                                        -> {"vocab_size", "num_layers",
//    ...}
//   {"op": "logits", "sequences": [{"ids", "decode_from"}], "max_batch_tokens", "out": path}
//       -> {"rows": [of each sequence]}; float32 [sum of rows, vocab_size] go to `out`
//   {"op": "score", "prompt": [...], "continuation": [...]}    -> {"logprobs": [...]}
//   {"op": "generate", "prompt": [...], "max_tokens"}          -> {"tokens": [...], "logprobs": [...]}
// "score" and "generate" go through a whole Engine. A refusal is {"error": message}.
#include <condition_variable>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <variant>

#include "tests/tools/model_driver.h"

namespace kvcrush::testing {
namespace {

using Json = nlohmann::json;

// Tells that a stream has something new.
class Bell {
 public:
  void ring() {
    const std::lock_guard lock(mutex_);
    rung_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return std::exchange(rung_, false); });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool rung_ = false;
};

class Session {
 public:
  Json answer(const Json& request) {
    const std::string op = request.at("op");
    if (op == "open") return open(request);
    if (op == "logits") return logits(request);
    if (op == "score") return score(request);
    if (op == "generate") return generate(request);
    throw std::runtime_error("unknown op \"" + op + "\"");
  }

 private:
  Json open(const Json& request) {
    driver_.reset();
    engine_.reset();
    EngineConfig config;
    config.weight_dtype = request.value("weight_dtype", "f32");
    config.max_batch_tokens = request.value("max_batch_tokens", 512);
    config.max_running_sequences = std::min(config.max_running_sequences, config.max_batch_tokens);
    config.max_context_tokens = request.value("max_context_tokens", 0);
    config.num_threads = request.value("num_threads", 1);
    config.kv_memory_bytes = request.value("kv_memory_bytes", std::uint64_t{256} << 20);
    model_ = std::make_shared<const ModelFile>(value_or_throw(load_model_file(request.at("model"))));
    config_ = config;
    driver_ = std::make_unique<ModelDriver>(model_, config_);
    const ModelConfig& shape = model_->config;
    return {{"vocab_size", shape.vocab_size},
            {"num_layers", shape.num_layers},
            {"max_context_tokens", shape.max_context_tokens},
            {"architecture", shape.architecture}};
  }

  Json logits(const Json& request) {
    if (!driver_) throw std::runtime_error("no model is open");
    std::vector<LogitsJob> jobs;
    for (const Json& sequence : request.at("sequences")) {
      LogitsJob job{.ids = sequence.at("ids").get<std::vector<TokenId>>(), .decode_from = std::nullopt};
      if (sequence.contains("decode_from")) job.decode_from = sequence.at("decode_from").get<int>();
      jobs.push_back(std::move(job));
    }
    std::ofstream out(request.at("out").get<std::string>(), std::ios::binary);
    std::vector<std::size_t> num_rows;
    for (const std::vector<float>& rows :
         driver_->run(jobs, request.value("max_batch_tokens", config_.max_batch_tokens))) {
      out.write(reinterpret_cast<const char*>(rows.data()),
                static_cast<std::streamsize>(rows.size() * sizeof(float)));
      num_rows.push_back(rows.size() / static_cast<std::size_t>(driver_->model_config().vocab_size));
    }
    if (!out.flush()) throw std::runtime_error("cannot write the logits");
    return {{"rows", num_rows}};
  }

  Json score(const Json& request) {
    EngineRequest one = make_request(request);
    one.continuation_token_ids = request.at("continuation").get<std::vector<TokenId>>();
    Json logprobs;
    for (const StreamEvent& event : run(std::move(one)))
      if (const auto* score = std::get_if<ScoreEvent>(&event)) logprobs = score->logprobs;
    return {{"logprobs", logprobs}};
  }

  Json generate(const Json& request) {
    EngineRequest one = make_request(request);
    one.sampling.max_tokens = request.at("max_tokens");
    one.sampling.num_logprobs = 0;
    Json tokens = Json::array();
    Json logprobs = Json::array();
    for (const StreamEvent& event : run(std::move(one))) {
      const auto* token = std::get_if<TokenEvent>(&event);
      if (token == nullptr) continue;
      tokens.push_back(token->token);
      logprobs.push_back(token->logprob.value().logprob);
    }
    return {{"tokens", tokens}, {"logprobs", logprobs}};
  }

  EngineRequest make_request(const Json& json) {
    EngineRequest request;
    request.request_id = std::to_string(++num_requests_);
    request.prompt_token_ids = json.at("prompt").get<std::vector<TokenId>>();
    request.sampling.temperature = 0;
    request.sampling.max_tokens = 1;
    request.sampling.ignore_eos = true;
    return request;
  }

  // All events of the request's one sample.
  std::vector<StreamEvent> run(EngineRequest request) {
    if (!model_) throw std::runtime_error("no model is open");
    if (!engine_) engine_ = value_or_throw(Engine::create(model_, config_, observer_));
    const auto bell =
        std::make_shared<Bell>();  // outlives this call: the last ring may come after the events
    const auto stream = std::make_shared<TokenStream>([bell] { bell->ring(); });
    const Status status = engine_->submit(std::move(request), stream);
    if (!status.ok()) throw std::runtime_error(status.message());
    std::vector<StreamEvent> events;
    while (events.empty() || !std::holds_alternative<FinishEvent>(events.back())) {
      bell->wait();
      for (StreamEvent& event : stream->take()) events.push_back(std::move(event));
    }
    return events;
  }

  EngineConfig config_;
  EngineObserver observer_;
  std::shared_ptr<const ModelFile> model_;
  std::unique_ptr<ModelDriver> driver_;
  std::unique_ptr<Engine> engine_;
  int num_requests_ = 0;
};

}  // namespace
}  // namespace kvcrush::testing

int main() {
  kvcrush::testing::Session session;
  std::string line;
  while (std::getline(std::cin, line)) {
    nlohmann::json reply;
    try {
      reply = session.answer(nlohmann::json::parse(line));
    } catch (const std::exception& error) {
      reply = {{"error", error.what()}};
    }
    std::cout << reply.dump() << std::endl;
  }
  return 0;
}
