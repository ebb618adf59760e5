// A GPU that fails in the middle of a step.
#include <string_view>

#include "tests/cuda_sim/simulated_gpu.h"
#include "tests/unit/gpu/gpu_engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class FailureObserver : public RecordingObserver {
 public:
  void on_step_failed(std::string_view) override { ++num_failed_steps; }
  std::atomic<int> num_failed_steps = 0;
};

// Whatever the step had staged by then is not carried out by a later one.
TEST_F(GpuEngineTest, ACudaErrorEndsWhatRanAndLeavesNothingToTheNextStep) {
  FailureObserver failures;
  EngineConfig config;
  config.device = "cuda:0";
  config.weight_dtype = "f32";
  config.kv_dtype = "f16";
  config.kv_memory_bytes = 8 << 20;
  config.max_batch_tokens = 96;
  config.num_threads = 1;
  Result<std::unique_ptr<Engine>> engine = Engine::create(model_, config, failures);
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  EngineRequest request = greedy_request("r", random_prompt(60, kTinyVocab, 3), 3);
  request.cache_policies[0].compression = quarter(BasePolicy::kH2o);
  request.num_samples = 2;
  const auto tokens = [&] {
    Collector collector;
    EXPECT_TRUE((*engine)->submit(request, collector.stream()).ok());
    EXPECT_TRUE(collector.wait(2));
    expect_no_blocks_used(**engine);
    const bool failed = collector.finish(0).reason == FinishReason::kError;
    return failed ? std::vector<TokenId>{} : collector.tokens(0);
  };
  const std::vector<TokenId> expected = tokens();
  int step = 0;
  for (int failed = 1; step < 20 && failed > 0; ++step) {
    fail_copy(step + 1);
    failed = tokens().empty() ? 1 : 0;
    fail_copy(0);
    EXPECT_EQ(tokens(), expected) << "after a failure of copy " << step + 1;
  }
  EXPECT_GT(step, 4);
  EXPECT_EQ(failures.num_failed_steps, step - 1);
}

}  // namespace
}  // namespace kvcrush
