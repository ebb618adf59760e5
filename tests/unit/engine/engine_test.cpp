// The engine's promises, on a tiny model: same tokens whatever else runs, nothing lost, nothing leaked, one
// end per sample.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "tests/unit/engine/engine_harness.h"
#include "tests/unit/engine/tiny_model.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

constexpr std::uint64_t kBlockBytes =
    2 * 2 * 16 * 16 * 4;  // K and V, 2 KV heads, head_dim 16, 16 tokens, float32
constexpr int kLayers = 3;

class RecordingObserver : public EngineObserver {
 public:
  void on_preempted(RequestTag, std::int64_t) override { ++num_preemptions; }
  void on_step_failed(std::string_view what) override { ADD_FAILURE() << what; }
  std::atomic<int> num_preemptions = 0;
};

class EngineTest : public ::testing::Test {
 protected:
  // Pool for `pool_tokens` tokens of one uncompressed sequence.
  std::unique_ptr<Engine> make_engine(int pool_tokens, int max_batch_tokens = 64, int max_running = 16,
                                      int max_waiting = 256) {
    EngineConfig config;
    config.kv_memory_bytes = kBlockBytes * kLayers * ((pool_tokens + 15) / 16);
    config.max_batch_tokens = max_batch_tokens;
    config.max_running_sequences = max_running;
    config.max_waiting_sequences = max_waiting;
    config.num_threads = 2;
    Result<std::unique_ptr<Engine>> engine = Engine::create(model_, config, observer_);
    EXPECT_TRUE(engine.ok()) << engine.status().message();
    return std::move(engine).value();
  }

  static CompressionParams quarter() {
    CompressionParams params;
    params.budget_fraction = 0.25;
    params.window_tokens = 8;
    return params;
  }

  static void expect_no_blocks_used(Engine& engine) {
    ASSERT_TRUE(engine.wait_idle(std::chrono::seconds(30)));
    EXPECT_EQ(engine.stats().blocks_used, 0);
    EXPECT_EQ(engine.stats().num_running, 0);
  }

  // Prompts of many lengths, half of them compressed, some during prefill.
  static std::vector<EngineRequest> mixed_requests(int count, int max_tokens = 24) {
    std::vector<EngineRequest> requests;
    for (int i = 0; i < count; ++i) {
      EngineRequest request = greedy_request(
          "r" + std::to_string(i), random_prompt(20 + i * 37 % 300, kTinyVocab, i), max_tokens + i % 9);
      if (i % 2 == 1) {
        request.compression = quarter();
        if (i % 4 == 1) request.compression->token_sets = TokenSets::kPerKvHead;
        if (i % 3 == 1) request.compression->when = PruneWhen::kDuringPrefill;
      }
      if (i % 5 == 2) {
        request.sampling.temperature = 0.9F;
        request.sampling.seed = i;
      }
      requests.push_back(std::move(request));
    }
    return requests;
  }

  RecordingObserver observer_;  // outlives the engines of a test
  std::shared_ptr<const ModelFile> model_ = make_tiny_model();
};

TEST_F(EngineTest, GeneratesTheWantedNumberOfTokens) {
  auto engine = make_engine(512);
  const Outcome outcome = run(*engine, greedy_request("a", {5, 6, 7}, 20));
  EXPECT_EQ(outcome.tokens.size(), 20U);
  EXPECT_EQ(outcome.finish.reason, FinishReason::kLength);
  EXPECT_EQ(outcome.finish.prompt_tokens, 3);
  EXPECT_EQ(outcome.finish.completion_tokens, 20);
  EXPECT_FALSE(outcome.finish.compression.enabled);
  expect_no_blocks_used(*engine);
}

TEST_F(EngineTest, SameTokensAloneInABatchAndWithAnyChunkSize) {
  const std::vector<EngineRequest> requests = mixed_requests(14);
  auto large = make_engine(8192, 512);
  std::vector<Outcome> alone;
  for (const EngineRequest& request : requests) alone.push_back(run(*large, request));
  for (const int max_batch_tokens : {512, 37, 16}) {
    auto engine = make_engine(8192, max_batch_tokens);
    const std::vector<Outcome> together = run_together(*engine, requests);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(together[i].tokens, alone[i].tokens)
          << "request " << i << ", " << max_batch_tokens << " tokens a step";
    }
    expect_no_blocks_used(*engine);
  }
}

TEST_F(EngineTest, SameTokensAfterPreemption) {
  const std::vector<EngineRequest> requests = mixed_requests(12, 70);
  auto large = make_engine(8192);
  const std::vector<Outcome> expected = run_together(*large, requests);
  EXPECT_EQ(observer_.num_preemptions, 0);
  auto small = make_engine(400);
  const std::vector<Outcome> outcomes = run_together(*small, requests);
  EXPECT_GT(observer_.num_preemptions, 0);
  int preempted = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(outcomes[i].tokens, expected[i].tokens) << "request " << i;
    preempted += outcomes[i].finish.preemptions;
  }
  EXPECT_EQ(preempted, observer_.num_preemptions);
  expect_no_blocks_used(*small);
}

TEST_F(EngineTest, CompressionHoldsItsBudgetAndReportsIt) {
  auto engine = make_engine(2048);
  EngineRequest request = greedy_request("a", random_prompt(800, kTinyVocab, 1), 40);
  request.compression = quarter();
  const CompressionOutcome outcome = run(*engine, request).finish.compression;
  EXPECT_TRUE(outcome.enabled);
  EXPECT_TRUE(outcome.pruned);
  EXPECT_EQ(outcome.budget_tokens, 200);
  EXPECT_EQ(outcome.tokens_kept.min, 200);
  EXPECT_EQ(outcome.tokens_kept.max, 200);
  EXPECT_EQ(outcome.prune_count, 3);  // after the prompt, then every 16 of 39 cached output tokens
  EXPECT_EQ(outcome.tokens_evicted.min, 632);
  EXPECT_EQ(outcome.kv_bytes_before,
            static_cast<std::int64_t>(53 * kLayers * kBlockBytes));  // 839 cached tokens
  EXPECT_EQ(outcome.kv_bytes_after, static_cast<std::int64_t>(13 * kLayers * kBlockBytes));
  EXPECT_EQ(outcome.blocks_freed, (50 - 13 + 2) * kLayers);
}

TEST_F(EngineTest, PromptWithinBudgetIsNotPruned) {
  auto engine = make_engine(1024);
  EngineRequest plain = greedy_request("a", random_prompt(100, kTinyVocab, 2), 10);
  EngineRequest compressed = plain;
  compressed.request_id = "b";
  compressed.compression = quarter();
  compressed.compression->budget_fraction.reset();
  compressed.compression->budget_tokens = 500;
  const Outcome expected = run(*engine, plain);
  const Outcome outcome = run(*engine, compressed);
  EXPECT_FALSE(outcome.finish.compression.pruned);
  EXPECT_EQ(outcome.finish.compression.kv_bytes_after, outcome.finish.compression.kv_bytes_before);
  EXPECT_EQ(outcome.tokens, expected.tokens);
}

TEST_F(EngineTest, PromptLongerThanThePoolIsServedWhenPrunedDuringPrefill) {
  auto engine = make_engine(800);
  EngineRequest request = greedy_request("a", random_prompt(1800, kTinyVocab, 3), 8);
  request.compression = quarter();
  request.compression->budget_fraction = 0.1;
  EXPECT_EQ(engine->submit(request, std::make_shared<TokenStream>()).code(), StatusCode::kInvalidArgument);
  request.compression->when = PruneWhen::kDuringPrefill;
  EXPECT_EQ(run(*engine, request).tokens.size(), 8U);
  expect_no_blocks_used(*engine);
}

TEST_F(EngineTest, SamplesDifferBySeedAndRepeatWithIt) {
  auto engine = make_engine(1024);
  EngineRequest request = greedy_request("a", {1, 2, 3}, 16);
  request.sampling.temperature = 1.5F;
  request.sampling.seed = 11;
  request.num_samples = 3;
  Collector first;
  ASSERT_TRUE(engine->submit(request, first.stream()).ok());
  ASSERT_TRUE(first.wait(3));
  EXPECT_NE(first.tokens(0), first.tokens(1));
  EngineRequest again = request;
  again.num_samples = 1;
  again.sampling.seed = 12;  // sample i uses seed + i
  EXPECT_EQ(run(*engine, again).tokens, first.tokens(1));
}

TEST_F(EngineTest, EndTokensEndUnlessIgnoredOrTooEarly) {
  auto engine = make_engine(512);
  EngineRequest request = greedy_request("a", {9, 8, 7}, 30);
  const std::vector<TokenId> free_run = run(*engine, request).tokens;
  request.sampling.stop_token_ids = {free_run[4]};
  const Outcome stopped = run(*engine, request);
  EXPECT_EQ(stopped.finish.reason, FinishReason::kStop);
  EXPECT_EQ(stopped.tokens.back(), free_run[4]);
  EXPECT_LE(stopped.tokens.size(), 5U);
  request.sampling.min_tokens = 12;
  const Outcome later = run(*engine, request);
  EXPECT_GE(later.tokens.size(), 12U);
  for (std::size_t i = 0; i + 1 < later.tokens.size(); ++i) EXPECT_NE(later.tokens[i], free_run[4]);
}

TEST_F(EngineTest, LogprobsAreSortedAndOfTheSampledToken) {
  auto engine = make_engine(512);
  EngineRequest request = greedy_request("a", {4, 4, 4}, 6);
  request.sampling.num_logprobs = 5;
  Collector collector;
  ASSERT_TRUE(engine->submit(request, collector.stream()).ok());
  ASSERT_TRUE(collector.wait());
  for (const TokenEvent& event : collector.events()) {
    ASSERT_EQ(event.top_logprobs.size(), 5U);
    ASSERT_TRUE(event.logprob.has_value());
    EXPECT_EQ(event.top_logprobs[0].token, event.token);  // greedy
    EXPECT_FLOAT_EQ(event.top_logprobs[0].logprob, event.logprob->logprob);
    for (int i = 1; i < 5; ++i) EXPECT_GE(event.top_logprobs[i - 1].logprob, event.top_logprobs[i].logprob);
  }
}

TEST_F(EngineTest, RefusesWhatCanNeverFit) {
  auto engine = make_engine(100);
  const auto code = [&](int prompt, int max_tokens) {
    return engine
        ->submit(greedy_request("x", random_prompt(prompt, kTinyVocab, 1), max_tokens),
                 std::make_shared<TokenStream>())
        .code();
  };
  EXPECT_EQ(code(113, 1), StatusCode::kInvalidArgument);  // the pool's 7 blocks a layer hold 112
  EXPECT_EQ(code(100, 13), StatusCode::kInvalidArgument);
  auto wide = make_engine(4096);
  const Status over_context = wide->submit(greedy_request("x", random_prompt(2040, kTinyVocab, 1), 9),
                                           std::make_shared<TokenStream>());
  EXPECT_EQ(over_context.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(over_context.message().find("sampling.max_tokens is 9"), std::string::npos);
  EXPECT_EQ(run(*engine, greedy_request("y", random_prompt(100, kTinyVocab, 1), 12)).tokens.size(), 12U);
}

TEST_F(EngineTest, QueueBoundAndDuplicateIds) {
  auto engine = make_engine(256, 16, 1, 2);
  Collector collectors[8];
  int exhausted = 0;
  int accepted = 0;
  for (int i = 0; i < 8; ++i) {
    const Status status =
        engine->submit(greedy_request("q" + std::to_string(i), random_prompt(60, kTinyVocab, i), 60),
                       collectors[i].stream());
    ++(status.ok() ? accepted : exhausted);
    EXPECT_TRUE(status.ok() || status.code() == StatusCode::kResourceExhausted) << status.message();
  }
  EXPECT_GE(accepted, 2);
  EXPECT_GE(exhausted, 1);
  EXPECT_EQ(engine->submit(greedy_request("q0", {1}, 1), std::make_shared<TokenStream>()).code(),
            StatusCode::kAlreadyExists);
  ASSERT_TRUE(engine->wait_idle(std::chrono::seconds(30)));
  EXPECT_TRUE(engine->submit(greedy_request("q0", {1}, 1), std::make_shared<TokenStream>()).ok());
}

TEST_F(EngineTest, CancelsAtRandomMomentsLeakNothing) {
  auto engine = make_engine(400);
  std::mt19937 random(1);
  for (int round = 0; round < 12; ++round) {
    std::vector<std::unique_ptr<Collector>> collectors;
    const std::vector<EngineRequest> requests = mixed_requests(10);
    for (const EngineRequest& request : requests) {
      collectors.push_back(std::make_unique<Collector>());
      ASSERT_TRUE(engine->submit(request, collectors.back()->stream()).ok());
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 30000));
    for (const EngineRequest& request : requests) {
      if (random() % 3 != 0) static_cast<void>(engine->finish(request.request_id, FinishReason::kAbort));
    }
    for (const auto& collector : collectors) {
      ASSERT_TRUE(collector->wait());
      EXPECT_EQ(collector->num_finishes(), 1);
    }
    expect_no_blocks_used(*engine);
  }
}

TEST_F(EngineTest, FinishOfUnknownRequestIsNotFound) {
  auto engine = make_engine(256);
  EXPECT_EQ(engine->finish("nobody", FinishReason::kAbort).code(), StatusCode::kNotFound);
}

TEST_F(EngineTest, DrainLetsRunningFinishAndRefusesNew) {
  auto engine = make_engine(512);
  Collector running;
  ASSERT_TRUE(
      engine->submit(greedy_request("a", random_prompt(50, kTinyVocab, 1), 200), running.stream()).ok());
  engine->begin_drain();
  EXPECT_EQ(engine->submit(greedy_request("b", {1}, 1), std::make_shared<TokenStream>()).code(),
            StatusCode::kUnavailable);
  ASSERT_TRUE(running.wait());
  EXPECT_EQ(running.finish().reason, FinishReason::kLength);
  EXPECT_TRUE(engine->wait_idle(std::chrono::seconds(10)));
}

TEST_F(EngineTest, DestructionAbortsWhatRuns) {
  Collector running;
  {
    auto engine = make_engine(2048);
    ASSERT_TRUE(
        engine->submit(greedy_request("a", random_prompt(50, kTinyVocab, 1), 1900), running.stream()).ok());
    ASSERT_TRUE(running.wait_for_tokens(1));
  }
  ASSERT_TRUE(running.wait());
  EXPECT_EQ(running.finish().reason, FinishReason::kAbort);
}

TEST_F(EngineTest, WrongConfigurationsAreNamed) {
  const auto message = [&](auto change) {
    EngineConfig config;
    config.kv_memory_bytes = 1 << 20;
    change(config);
    return Engine::create(model_, config, observer_).status().message();
  };
  EXPECT_NE(message([](EngineConfig& c) { c.device = "tpu"; }).find("device is 'tpu'"), std::string::npos);
  EXPECT_NE(message([](EngineConfig& c) { c.kv_dtype = "int3"; }).find("kv_dtype is 'int3'"),
            std::string::npos);
  EXPECT_NE(message([](EngineConfig& c) { c.kv_memory_bytes = 100; }).find("kv_memory_bytes is 100"),
            std::string::npos);
  EXPECT_NE(message([](EngineConfig& c) { c.max_batch_tokens = 3; }).find("max_batch_tokens is 3"),
            std::string::npos);
  EXPECT_NE(message([](EngineConfig& c) { c.max_context_tokens = 9999; }).find("max_context_tokens is 9999"),
            std::string::npos);
}

}  // namespace
}  // namespace kvcrush
