// Many ask at once: shares, priorities, deadlines, queue bounds, and sequences that give way.
#include <algorithm>
#include <thread>

#include "tests/unit/engine/engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class EngineSharingTest : public EngineTest {
 protected:
  static std::int64_t milliseconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start)
        .count();
  }
};

TEST_F(EngineSharingTest, SameTokensAfterSwapping) {
  const std::vector<EngineRequest> requests = mixed_requests(16, 120);
  const std::vector<Outcome> expected = run_together(*make_engine(8192), requests);
  EngineConfig config = config_for(460);
  config.swap_memory_bytes = std::uint64_t{1} << 30;
  auto engine = make_engine(config);
  const std::vector<Outcome> outcomes = run_together(*engine, requests);
  EXPECT_GT(observer_.num_swaps, 0);
  int swaps = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(outcomes[i].tokens, expected[i].tokens) << "request " << i;
    swaps += outcomes[i].finish.swaps;
    EXPECT_LE(outcomes[i].finish.swaps, outcomes[i].finish.preemptions);
  }
  EXPECT_EQ(swaps, observer_.num_swaps);
  expect_no_blocks_used(*engine);
  EXPECT_EQ(engine->stats().swap_bytes_used, 0);
}

// A swapped sample has tokens, but no cache: ending it must not touch blocks that are others' by now.
TEST_F(EngineSharingTest, EndingASwappedSampleSameTokensForOthers) {
  EngineRequest gives_way = greedy_request("low", random_prompt(600, kTinyVocab, 1), 300);
  gives_way.priority = -1;
  const EngineRequest grows = greedy_request("high", random_prompt(100, kTinyVocab, 2), 1090);
  const std::vector<TokenId> expected = run(*make_engine(8192), grows).tokens;
  EngineConfig config = config_for(1200);
  config.swap_memory_bytes = std::uint64_t{1} << 30;
  for (const bool engine_ends : {false, true}) {
    auto engine = make_engine(config);
    Collector low;
    Collector high;
    ASSERT_TRUE(engine->submit(gives_way, low.stream()).ok());
    ASSERT_TRUE(engine->submit(grows, high.stream()).ok());
    const auto is_swapped = [&] {
      const EngineStats stats = engine->stats();
      return std::ranges::any_of(stats.sequences, [](const auto& s) { return s.state == "swapped"; });
    };
    while (!is_swapped()) {
      ASSERT_EQ(high.num_finishes(), 0);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (engine_ends) {
      engine.reset();
      EXPECT_EQ(high.finish().reason, FinishReason::kAbort);
    } else {
      EXPECT_TRUE(engine->finish("low", FinishReason::kAbort).ok());
      ASSERT_TRUE(high.wait());
      EXPECT_EQ(high.tokens(), expected);
      expect_no_blocks_used(*engine);
      EXPECT_EQ(engine->stats().swap_bytes_used, 0);
    }
    EXPECT_EQ(low.finish().reason, FinishReason::kAbort);
  }
}

TEST_F(EngineSharingTest, ADeadlineEndsWaitingAndRunningSamples) {
  EngineConfig config = config_for(2048);
  config.max_running_sequences = 1;
  config.faults = "stall=1,stall-ms=20";  // however fast the machine is, 100 tokens outlast the deadline
  auto engine = make_engine(config);
  EngineRequest running = greedy_request("running", random_prompt(100, kTinyVocab, 1), 100);
  EngineRequest waiting = greedy_request("waiting", random_prompt(100, kTinyVocab, 2), 10);
  const auto now = std::chrono::steady_clock::now();
  running.deadline = now + std::chrono::milliseconds(1200);
  Collector first;
  Collector second;
  ASSERT_TRUE(engine->submit(running, first.stream()).ok());
  ASSERT_TRUE(first.wait_for_tokens(1));
  waiting.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(40);
  ASSERT_TRUE(engine->submit(waiting, second.stream()).ok());
  ASSERT_TRUE(second.wait());
  EXPECT_EQ(second.finish().reason, FinishReason::kDeadline);
  EXPECT_TRUE(second.tokens().empty());
  ASSERT_TRUE(first.wait());
  EXPECT_EQ(first.finish().reason, FinishReason::kDeadline);
  EXPECT_LT(milliseconds_since(now), 5000);
  EXPECT_EQ(first.num_finishes(), 1);
  expect_no_blocks_used(*engine);
}

TEST_F(EngineSharingTest, APassedDeadlineIsNotQueued) {
  auto engine = make_engine(1024);
  EngineRequest request = greedy_request("late", {1, 2, 3}, 4);
  request.deadline = std::chrono::steady_clock::now();
  Collector collector;
  EXPECT_EQ(engine->submit(request, collector.stream()).code(), StatusCode::kDeadlineExceeded);
}

TEST_F(EngineSharingTest, TheQueueIsBoundedByTokensToo) {
  EngineConfig config = config_for(2048);
  config.max_running_sequences = 1;
  config.max_waiting_tokens = 300;
  auto engine = make_engine(config);
  Collector running;
  ASSERT_TRUE(
      engine->submit(greedy_request("a", random_prompt(100, kTinyVocab, 1), 1500), running.stream()).ok());
  ASSERT_TRUE(running.wait_for_tokens(1));
  Collector queued;  // more than the bound, but alone
  ASSERT_TRUE(
      engine->submit(greedy_request("b", random_prompt(400, kTinyVocab, 2), 1), queued.stream()).ok());
  Collector shed;
  const Status status = engine->submit(greedy_request("c", {1, 2}, 1), shed.stream());
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("waiting prompt tokens"), std::string::npos) << status.message();
  ASSERT_TRUE(engine->finish("a", FinishReason::kAbort).ok());
  ASSERT_TRUE(queued.wait());
  EXPECT_TRUE(engine->submit(greedy_request("d", {1, 2}, 1), shed.stream()).ok());
  ASSERT_TRUE(shed.wait());
}

// One tenant floods the queue; another's single request does not wait for all of it.
TEST_F(EngineSharingTest, AFloodDoesNotHoldAnotherTenantBack) {
  auto engine = make_engine(2048, 64, /*max_running=*/2);
  std::vector<std::unique_ptr<Collector>> flood;
  for (int i = 0; i < 40; ++i) {
    EngineRequest request = greedy_request("f" + std::to_string(i), random_prompt(60, kTinyVocab, i), 30);
    request.tenant = "flood";
    flood.push_back(std::make_unique<Collector>());
    ASSERT_TRUE(engine->submit(request, flood.back()->stream()).ok());
  }
  EngineRequest request = greedy_request("single", random_prompt(60, kTinyVocab, 99), 5);
  request.tenant = "quiet";
  Collector single;
  ASSERT_TRUE(engine->submit(request, single.stream()).ok());
  ASSERT_TRUE(single.wait());
  int finished = 0;
  for (const auto& collector : flood) finished += collector->num_finishes();
  EXPECT_LT(finished, 12);
  for (const auto& collector : flood) ASSERT_TRUE(collector->wait());
}

}  // namespace
}  // namespace kvcrush
