// Requests to an engine in this process, and when their tokens came.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"

namespace kvcrush::bench {

using BenchClock = std::chrono::steady_clock;

// Waits for one request's sample and keeps when its tokens came and how it ended.
class Waiter {
 public:
  Waiter() : stream_(std::make_shared<TokenStream>([this] { drain(); })) {}
  const std::shared_ptr<TokenStream>& stream() const { return stream_; }
  FinishEvent wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return finish_.has_value(); });
    return *finish_;
  }
  // Milliseconds between neighbouring tokens. After wait().
  std::vector<double> gaps_ms() const {
    std::vector<double> gaps;
    for (std::size_t i = 1; i < arrivals_.size(); ++i)
      gaps.push_back(std::chrono::duration<double, std::milli>(arrivals_[i] - arrivals_[i - 1]).count());
    return gaps;
  }

 private:
  void drain() {
    std::lock_guard lock(mutex_);
    for (StreamEvent& event : stream_->take()) {
      if (auto* finish = std::get_if<FinishEvent>(&event)) finish_ = *finish;
      if (std::holds_alternative<TokenEvent>(event)) arrivals_.push_back(BenchClock::now());
    }
    if (finish_) done_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable done_;
  std::optional<FinishEvent> finish_;
  std::vector<BenchClock::time_point> arrivals_;
  std::shared_ptr<TokenStream> stream_;
};

inline EngineRequest make_request(int prompt_tokens, int new_tokens, int vocab_size, int salt) {
  static int counter = 0;
  EngineRequest request;
  request.request_id = "bench-" + std::to_string(counter++);
  request.bypass_prefix_cache = true;  // prompts come again, from round to round
  for (int i = 0; i < prompt_tokens; ++i)
    request.prompt_token_ids.push_back((i * 7919 + salt * 104729 + 100) % (vocab_size - 100) + 50);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = new_tokens;
  request.sampling.ignore_eos = true;
  return request;
}

inline FinishEvent run_one(Engine& engine, EngineRequest request, std::vector<double>* gaps_ms = nullptr) {
  Waiter waiter;
  const Status status = engine.submit(std::move(request), waiter.stream());
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    std::exit(1);
  }
  FinishEvent finish = waiter.wait();
  if (gaps_ms != nullptr) *gaps_ms = waiter.gaps_ms();
  return finish;
}

}  // namespace kvcrush::bench
