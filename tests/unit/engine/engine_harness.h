// Runs requests through a real Engine and waits for their tokens.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/loader/model_file.h"

namespace kvcrush::testing {

// Collects one request's events on whatever thread they come, and lets a test wait for the end.
class Collector {
 public:
  Collector() : stream_(std::make_shared<TokenStream>([this] { drain(); })) {}

  const std::shared_ptr<TokenStream>& stream() const { return stream_; }

  // Waits until `num_samples` samples have finished. False: it took over a minute.
  bool wait(int num_samples = 1) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60),
                             [&] { return static_cast<int>(finishes_.size()) >= num_samples; });
  }
  bool wait_for_tokens(std::size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60),
                             [&] { return tokens_[0].size() >= count || !finishes_.empty(); });
  }
  std::vector<TokenId> tokens(int index = 0) {
    std::lock_guard lock(mutex_);
    return tokens_[index];
  }
  FinishEvent finish(int index = 0) {
    std::lock_guard lock(mutex_);
    return finishes_.at(index);
  }
  int num_finishes() {
    std::lock_guard lock(mutex_);
    return num_finish_events_;
  }
  ScoreEvent score(int index) {
    std::lock_guard lock(mutex_);
    return scores_.at(index);
  }
  std::vector<TokenEvent> events() {
    std::lock_guard lock(mutex_);
    return events_;
  }

 private:
  void drain() {
    std::lock_guard lock(mutex_);
    for (StreamEvent& event : stream_->take()) {
      if (auto* token = std::get_if<TokenEvent>(&event)) {
        EXPECT_FALSE(finishes_.contains(token->index)) << "token after finish";
        tokens_[token->index].push_back(token->token);
        events_.push_back(std::move(*token));
      } else if (auto* score = std::get_if<ScoreEvent>(&event)) {
        EXPECT_FALSE(scores_.contains(score->index)) << "two scores";
        scores_[score->index] = std::move(*score);
      } else {
        const auto& finish = std::get<FinishEvent>(event);
        finishes_[finish.index] = finish;
        ++num_finish_events_;
      }
    }
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int, std::vector<TokenId>> tokens_;
  std::map<int, FinishEvent> finishes_;
  std::map<int, ScoreEvent> scores_;
  std::vector<TokenEvent> events_;
  int num_finish_events_ = 0;
  std::shared_ptr<TokenStream> stream_;
};

inline EngineRequest greedy_request(const std::string& id, std::vector<TokenId> prompt, int max_tokens) {
  EngineRequest request;
  request.request_id = id;
  request.prompt_token_ids = std::move(prompt);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  return request;
}

inline std::vector<TokenId> random_prompt(int length, int vocab_size, unsigned seed) {
  std::vector<TokenId> ids(length);
  unsigned state = seed * 2654435761U + 1;
  for (TokenId& id : ids) {
    state = state * 1664525U + 1013904223U;
    id = static_cast<TokenId>((state >> 8) % static_cast<unsigned>(vocab_size));
  }
  return ids;
}

struct Outcome {
  std::vector<TokenId> tokens;
  FinishEvent finish;
};

inline Outcome run(Engine& engine, EngineRequest request) {
  Collector collector;
  const Status status = engine.submit(std::move(request), collector.stream());
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(collector.wait());
  return {collector.tokens(), collector.finish()};
}

// Requests in flight at the same time, answered in the order given.
inline std::vector<Outcome> run_together(Engine& engine, const std::vector<EngineRequest>& requests) {
  std::vector<std::unique_ptr<Collector>> collectors;
  for (const EngineRequest& request : requests) {
    collectors.push_back(std::make_unique<Collector>());
    const Status status = engine.submit(request, collectors.back()->stream());
    EXPECT_TRUE(status.ok()) << status.message();
  }
  std::vector<Outcome> outcomes;
  for (const auto& collector : collectors) {
    EXPECT_TRUE(collector->wait());
    outcomes.push_back({collector->tokens(), collector->finish()});
  }
  return outcomes;
}

}  // namespace kvcrush::testing
