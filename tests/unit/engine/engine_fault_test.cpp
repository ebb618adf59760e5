// Faults on purpose: what ends with an error, what goes on, and that nothing is left behind.
#include "engine/faults.h"

#include <optional>

#include "tests/unit/engine/engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class FaultObserver : public RecordingObserver {
 public:
  void on_step_failed(std::string_view) override { ++num_failed_steps; }
  void on_invalid_logits(RequestTag) override { ++num_invalid; }
  std::atomic<int> num_failed_steps = 0;
  std::atomic<int> num_invalid = 0;
};

class EngineFaultTest : public EngineTest {
 protected:
  std::unique_ptr<Engine> make_faulty(const std::string& faults, int pool_tokens = 4096) {
    EngineConfig config = config_for(pool_tokens);
    config.faults = faults;
    config.swap_memory_bytes = 1 << 26;
    Result<std::unique_ptr<Engine>> engine = Engine::create(model_, config, faults_seen_);
    EXPECT_TRUE(engine.ok()) << engine.status().message();
    return std::move(engine).value();
  }
  // Rounds of requests, each of which ends exactly once. Returns how many ended with an error.
  int run_rounds(Engine& engine, const std::vector<Outcome>& expected,
                 const std::vector<EngineRequest>& requests) {
    int errors = 0;
    for (int round = 0; round < 6; ++round) {
      const std::vector<Outcome> outcomes = run_together(engine, requests);
      for (std::size_t i = 0; i < outcomes.size(); ++i) {
        if (outcomes[i].finish.reason == FinishReason::kError) {
          ++errors;
        } else {
          EXPECT_EQ(outcomes[i].tokens, expected[i].tokens) << "request " << i;
        }
      }
      expect_no_blocks_used(engine);
    }
    return errors;
  }

  FaultObserver faults_seen_;
};

TEST_F(EngineFaultTest, NanEndsItsRequestAloneSameTokensForOthers) {
  const std::vector<EngineRequest> requests = mixed_requests(12);
  const std::vector<Outcome> expected = run_together(*make_engine(8192), requests);
  auto engine = make_faulty("nan=0.01,seed=3");
  const int errors = run_rounds(*engine, expected, requests);
  EXPECT_GT(errors, 3);
  EXPECT_LT(errors, 60);
  EXPECT_EQ(faults_seen_.num_invalid, errors);
  EXPECT_EQ(faults_seen_.num_failed_steps, 0);
}

// What a NaN makes a lookahead choose decides what the prune keeps: that request must not go on as if nothing
// had been.
TEST_F(EngineFaultTest, NanInALookaheadEndsItsRequestSameTokensForOthers) {
  EngineRequest request = greedy_request("r", random_prompt(90, kTinyVocab, 2), 6);
  request.cache_policies[0].compression = quarter();
  request.cache_policies[0].compression->lookahead_tokens = 8;
  request.cache_policies[0].compression->lookahead_branches = 2;
  const Outcome expected = run(*make_engine(8192), request);
  auto engine = make_faulty("nan=0.05,seed=1");
  int errors = 0;
  for (int i = 0; i < 60; ++i) {
    const Outcome outcome = run(*engine, request);
    if (outcome.finish.reason == FinishReason::kError) {
      ++errors;
    } else {
      EXPECT_EQ(outcome.tokens, expected.tokens);
    }
  }
  EXPECT_GT(errors, 20);
  EXPECT_LT(errors, 60);
  EXPECT_EQ(faults_seen_.num_invalid, errors);
  expect_no_blocks_used(*engine);
}

// Variants and scores: nothing comes of a trunk with NaNs, nor a score that NaNs have touched.
TEST_F(EngineFaultTest, NanInATrunkOrAScoreEndsItSameTokensForOthers) {
  EngineRequest request = greedy_request("r", random_prompt(70, kTinyVocab, 3), 1);
  request.cache_policies.resize(3);
  request.cache_policies[1].compression = quarter();
  request.cache_policies[1].compression->lookahead_tokens = 4;
  request.cache_policies[2].kv_dtype = KvDtype::kInt8;
  request.num_samples = 3;
  request.continuation_token_ids = random_prompt(6, kTinyVocab, 8);
  request.compare_to_full = true;
  const auto scores_of = [&](Engine& engine, std::vector<std::optional<ScoreEvent>>& scores) {
    Collector collector;
    ASSERT_TRUE(engine.submit(request, collector.stream()).ok());
    ASSERT_TRUE(collector.wait(3));
    scores.assign(3, std::nullopt);
    for (int i = 0; i < 3; ++i) {
      if (collector.finish(i).reason != FinishReason::kError)
        scores[static_cast<std::size_t>(i)] = collector.score(i);
    }
  };
  std::vector<std::optional<ScoreEvent>> expected;
  scores_of(*make_engine(8192), expected);
  auto engine = make_faulty("nan=0.03,seed=7");
  int errors = 0;
  for (int round = 0; round < 40; ++round) {
    std::vector<std::optional<ScoreEvent>> scores;
    scores_of(*engine, scores);
    for (std::size_t i = 0; i < 3; ++i) {
      if (!scores[i]) {
        ++errors;
        continue;
      }
      EXPECT_EQ(scores[i]->logprobs, expected[i]->logprobs);
      EXPECT_EQ(scores[i]->kl_divergences, expected[i]->kl_divergences);
      EXPECT_EQ(scores[i]->full_logprobs, expected[i]->full_logprobs);
    }
    expect_no_blocks_used(*engine);
  }
  EXPECT_GT(errors, 10);
  EXPECT_LT(errors, 120);
  EXPECT_EQ(faults_seen_.num_invalid, errors);
}

TEST_F(EngineFaultTest, APromptWithNanIsNotFoundByLaterOnes) {
  EngineRequest request = greedy_request("r", random_prompt(100, kTinyVocab, 4), 4);
  for (const int num_samples : {1, 2}) {
    auto engine = make_faulty("nan=1");
    request.num_samples = num_samples;
    request.cache_policies[0].compression = quarter();
    for (int i = 0; i < 3; ++i) {
      Collector collector;
      ASSERT_TRUE(engine->submit(request, collector.stream()).ok());
      ASSERT_TRUE(collector.wait(num_samples));
      EXPECT_EQ(collector.finish(0).reason, FinishReason::kError);
      EXPECT_EQ(collector.finish(num_samples - 1).cached_prompt_tokens, 0);
    }
  }
}

TEST_F(EngineFaultTest, AFailedStepEndsWhatRanInItSameTokensForOthers) {
  const std::vector<EngineRequest> requests = mixed_requests(12);
  const std::vector<Outcome> expected = run_together(*make_engine(8192), requests);
  for (const char* faults :
       {"exception=0.05,seed=1", "memory=0.05,seed=2", "exception=0.05,nan=0.005,seed=4"}) {
    auto engine = make_faulty(faults, 700);
    EXPECT_GT(run_rounds(*engine, expected, requests), 0) << faults;
    EXPECT_GT(faults_seen_.num_failed_steps, 0) << faults;
    faults_seen_.num_failed_steps = 0;
  }
}

TEST_F(EngineFaultTest, PlansAreChecked) {
  for (const char* bad :
       {"nan", "nan=2", "nan=-1", "nan=x", "typo=1", "nan=0.1,,", "stall-ms=1.5", "stall-ms=-1"})
    EXPECT_EQ(parse_faults(bad).status().code(), StatusCode::kInvalidArgument) << bad;
  const Result<FaultPlan> plan = parse_faults("stall=0.5,stall-ms=20,seed=9");
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->stall_share, 0.5);
  EXPECT_EQ(plan->stall_ms, 20);
  EXPECT_TRUE(plan->any());
  EXPECT_FALSE(parse_faults("")->any());
}

}  // namespace
}  // namespace kvcrush
