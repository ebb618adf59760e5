// A Server in this process with a scripted engine behind it, and a client on a real connection.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "kvcrush/v1/inference.grpc.pb.h"
#include "server/server.h"
#include "tests/unit/server/test_models.h"

namespace kvcrush::test {

inline constexpr std::chrono::seconds kPatience{20};

// Does nothing by itself: the test pushes the tokens and ends the samples, finish() ends them as the engine
// would.
class ScriptedBackend final : public Backend {
 public:
  Status submit(EngineRequest request, std::shared_ptr<TokenStream> stream) override {
    std::unique_lock lock(mutex_);
    if (draining_) return {StatusCode::kUnavailable, "draining"};
    if (num_refused_ > 0) {
      --num_refused_;
      return {StatusCode::kResourceExhausted, refusal};
    }
    Live& live = live_[request.request_id];
    live.stream = std::move(stream);
    for (int i = 0; i < request.num_samples; ++i) live.samples.insert(i);
    const std::string id = request.request_id;
    last_request_ = std::move(request);
    lock.unlock();
    changed_.notify_all();
    if (on_submit) on_submit(id);
    return {};
  }

  Status finish(const std::string& request_id, FinishReason reason, std::optional<int> index) override {
    std::set<int> samples;
    std::shared_ptr<TokenStream> stream;
    {
      std::lock_guard lock(mutex_);
      const auto found = live_.find(request_id);
      if (found == live_.end()) return not_found("no such request");
      stream = found->second.stream;
      samples = index ? std::set<int>{*index} : found->second.samples;
      for (const int sample : samples) found->second.samples.erase(sample);
      if (found->second.samples.empty()) live_.erase(found);
      finished_.push_back({request_id, reason});
    }
    changed_.notify_all();
    for (const int sample : samples) {
      FinishEvent event;
      event.index = sample;
      event.reason = reason;
      event.prompt_tokens = 5;
      stream->push(event);
    }
    return {};
  }

  void token(const std::string& request_id, TokenId token, int index = 0) {
    std::shared_ptr<TokenStream> stream;
    {
      std::lock_guard lock(mutex_);
      const auto found = live_.find(request_id);
      if (found == live_.end() || !found->second.samples.contains(index)) return;
      stream = found->second.stream;
    }
    TokenEvent event;
    event.index = index;
    event.token = token;
    stream->push(event);
  }
  void text(const std::string& request_id, std::string_view bytes, int index = 0) {
    for (const TokenId id : bytes_of(bytes)) token(request_id, id, index);
  }

  // Sample `index` of a Score call; `values` are its log-probabilities and KL divergences.
  void score(const std::string& request_id, const std::vector<float>& values, int index = 0) {
    std::shared_ptr<TokenStream> stream;
    {
      std::lock_guard lock(mutex_);
      const auto found = live_.find(request_id);
      if (found == live_.end()) return;
      stream = found->second.stream;
    }
    ScoreEvent event;
    event.index = index;
    event.logprobs = values;
    event.kl_divergences = values;
    event.top1_agrees.assign(values.size(), true);
    event.top1_agrees.back() = false;
    event.full_logprobs.assign(values.size(), -1.0f);
    stream->push(std::move(event));
  }

  int max_new_tokens(int num_prompt_tokens, const CachePolicy&) const override {
    if (on_mapping) on_mapping();
    return 100'000 - num_prompt_tokens;
  }
  void begin_drain() override {
    {
      std::lock_guard lock(mutex_);
      draining_ = true;
    }
    changed_.notify_all();
  }
  bool wait_idle(std::chrono::milliseconds timeout) override {
    return wait(timeout, [this] { return live_.empty(); });
  }
  EngineStats stats() const override {
    std::lock_guard lock(mutex_);
    EngineStats stats;
    stats.num_running = static_cast<int>(live_.size());
    stats.blocks_total = 40;
    for (const auto& [id, live] : live_) {
      SequenceStats sequence;
      sequence.request_id = id;
      sequence.state = "decode";
      stats.sequences.push_back(sequence);
    }
    return stats;
  }
  EngineLimits limits() const override {
    EngineLimits limits;
    limits.max_context_tokens = 100'000;
    limits.max_cached_tokens = 100'000;
    limits.block_size_tokens = 16;
    limits.block_bytes = 64;
    limits.num_blocks = 40;
    return limits;
  }

  void refuse_next(int count) {
    std::lock_guard lock(mutex_);
    num_refused_ = count;
  }
  bool wait_live(const std::string& id) {
    return wait(kPatience, [&] { return live_.contains(id); });
  }
  bool wait_draining() {
    return wait(kPatience, [this] { return draining_; });
  }
  bool wait_idle_long() { return wait_idle(kPatience); }
  std::vector<std::pair<std::string, FinishReason>> finished() const {
    std::lock_guard lock(mutex_);
    return finished_;
  }
  EngineRequest last_request() const {
    std::lock_guard lock(mutex_);
    return last_request_;
  }

  // Set before any call:
  std::function<void(const std::string& request_id)> on_submit;
  std::function<void()> on_mapping;  // while the service maps a request
  std::string refusal = "queue is full";

 private:
  struct Live {
    std::shared_ptr<TokenStream> stream;
    std::set<int> samples;
  };

  template <typename Condition>
  bool wait(std::chrono::milliseconds timeout, Condition condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, condition);
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Live> live_;
  std::vector<std::pair<std::string, FinishReason>> finished_;
  EngineRequest last_request_;
  bool draining_ = false;
  int num_refused_ = 0;
};

inline ServerConfig server_config() {
  ServerConfig config;
  config.listen = "127.0.0.1:0";
  config.http_listen = "";
  config.engine.kv_memory_bytes = 1 << 20;
  config.compression = compression_defaults({}, KvDtype::kF32).value();
  config.drain_timeout = std::chrono::milliseconds(200);
  return config;
}

class GrpcTest : public ::testing::Test {
 protected:
  void start(ServerConfig config = server_config()) {
    server_ = std::make_unique<Server>(std::move(config));
    const Status listening = server_->listen();
    ASSERT_TRUE(listening.ok()) << listening.message();
    connect();
    const auto loader = [this](const ServerConfig&, EngineObserver& observer, const LoadProgress&) {
      observer_ = &observer;
      return Result<LoadedModel>(scripted_model());
    };
    const Status loading = server_->load(loader);
    ASSERT_TRUE(loading.ok()) << loading.message();
  }

  void connect() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->grpc_port()),
                                         grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Inference::NewStub(channel_);
  }

  LoadedModel scripted_model() {
    LoadedModel model;
    auto backend = std::make_unique<ScriptedBackend>();
    backend_ = backend.get();
    model.backend = std::move(backend);
    model.tokenizer = byte_tokenizer();
    model.chat_template = plain_template();
    model.name = "scripted";
    model.config.architecture = "llama";
    model.config.num_layers = 2;
    return model;
  }

  static v1::GenerateRequest request(const std::string& id, const std::string& prompt = "hello") {
    v1::GenerateRequest request;
    request.set_request_id(id);
    request.set_text(prompt);
    return request;
  }

  // The serving status byte of grpc.health.v1.HealthCheckResponse: 1 serving, 2 not serving; -1 on failure.
  int health(const std::string& service) {
    std::string message;
    if (!service.empty()) message = std::string("\x0A") + static_cast<char>(service.size()) + service;
    std::string answer;
    if (!call_raw("/grpc.health.v1.Health/Check", message, &answer).ok() || answer.size() != 2) return -1;
    return answer[1];
  }

  // A unary call with bytes that no client library would let through.
  grpc::Status call_raw(const std::string& method, const std::string& message,
                        std::string* answer = nullptr) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    patient(context);
    grpc::CompletionQueue queue;
    grpc::Slice slice(message);
    const grpc::ByteBuffer request(&slice, 1);
    const auto call = stub.PrepareUnaryCall(&context, method, request, &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, this);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    std::vector<grpc::Slice> slices;
    if (answer != nullptr && status.ok() && response.Dump(&slices).ok()) {
      for (const grpc::Slice& part : slices)
        answer->append(reinterpret_cast<const char*>(part.begin()), part.size());
    }
    return status;
  }

  static void patient(grpc::ClientContext& context) {
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
  }

  std::unique_ptr<Server> server_;
  ScriptedBackend* backend_ = nullptr;  // the server's
  EngineObserver* observer_ = nullptr;  // the server's; the engine's part is the test's to play
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

// All of a stream: per sample the text and the last chunk, and the status.
struct StreamResult {
  std::map<int, std::string> text;
  std::map<int, v1::FinishInfo> finish;
  std::map<int, int> num_finishes;
  int num_chunks = 0;
  int num_tokens = 0;
  grpc::Status status;
};

inline StreamResult read_all(grpc::ClientReader<v1::GenerateResponse>& reader) {
  StreamResult result;
  v1::GenerateResponse chunk;
  while (reader.Read(&chunk)) {
    ++result.num_chunks;
    result.num_tokens += chunk.token_ids_size();
    result.text[chunk.index()] += chunk.text();
    if (chunk.has_finish()) {
      result.finish[chunk.index()] = chunk.finish();
      ++result.num_finishes[chunk.index()];
    }
  }
  result.status = reader.Finish();
  return result;
}

}  // namespace kvcrush::test
