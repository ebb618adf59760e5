// Faults on purpose: what ends with an error, what goes on, and that nothing is left behind.
#include "engine/faults.h"

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
