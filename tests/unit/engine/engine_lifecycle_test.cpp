// Limits, queues, cancels and ends: nothing lost, nothing leaked, one end per sample.
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "tests/unit/engine/engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

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

TEST_F(EngineTest, MoreSamplesThanMayEverWaitAreNoMatterOfTime) {
  auto engine = make_engine(400, 64, 16, 4);
  EngineRequest request = greedy_request("many", random_prompt(10, kTinyVocab, 1), 1);
  request.num_samples = 5;
  const Status samples = engine->submit(request, std::make_shared<TokenStream>());
  EXPECT_EQ(samples.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(samples.message(),
            "sampling.n is 5; allowed: at most 4, as many samples as may wait (--max-waiting)");
  request.cache_policies.resize(5, request.cache_policies.front());
  const Status variants = engine->submit(request, std::make_shared<TokenStream>());
  EXPECT_EQ(variants.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(variants.message(),
            "variants has 5 entries; allowed: at most 4, as many samples as may wait (--max-waiting)");
  request.num_samples = 4;
  request.cache_policies.resize(1);
  EXPECT_TRUE(engine->submit(request, std::make_shared<TokenStream>()).ok());
  ASSERT_TRUE(engine->wait_idle(std::chrono::seconds(30)));
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

TEST_F(EngineTest, StatisticsAreThereBeforeTheFirstRequest) {
  auto engine = make_engine(256);
  EXPECT_EQ(engine->stats().blocks_total, 16 * kLayers);
  EXPECT_EQ(engine->stats().blocks_used, 0);
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

// Memory for so many positions would be asked for before the first token.
TEST_F(EngineTest, ContextsThatAModelFileOnlyClaims) {
  auto model = std::make_shared<ModelFile>(*model_);
  model->config.max_context_tokens = 1 << 26;
  EngineConfig config;
  config.kv_memory_bytes = 1 << 20;
  EXPECT_NE(
      Engine::create(model, config, observer_)
          .status()
          .message()
          .find(
              "max_context_tokens is 67108864, the model's; allowed: at most 33554432 with a head_dim of 16"),
      std::string::npos);
  config.max_context_tokens = 4096;
  EXPECT_TRUE(Engine::create(model, config, observer_).ok());
}

}  // namespace
}  // namespace kvcrush
