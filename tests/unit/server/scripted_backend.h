// An engine that does what a test tells it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/backend.h"
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
    live.tenant = request.tenant;
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
    stats.sequences = already_ended;
    for (const auto& [id, live] : live_) {
      SequenceStats sequence;
      sequence.tenant = live.tenant;
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
  std::vector<SequenceStats> already_ended;  // what stats() still shows, being a snapshot

 private:
  struct Live {
    std::shared_ptr<TokenStream> stream;
    std::string tenant;
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

}  // namespace kvcrush::test
