// A GPU that fails in the middle of a step.
#include "tests/cuda_sim/simulated_gpu.h"
#include "tests/unit/gpu/gpu_engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

// Whatever the step had staged by then is not carried out by a later one.
TEST_F(GpuEngineTest, ACudaErrorEndsWhatRanAndLeavesNothingToTheNextStep) {
  FailureObserver failures;
  const auto engine = make_engine("cuda:0", "f32", /*cuda_graphs=*/false, failures);
  EngineRequest request = greedy_request("r", random_prompt(60, kTinyVocab, 3), 3);
  request.cache_policies[0].compression = quarter(BasePolicy::kH2o);
  request.num_samples = 2;
  const auto tokens = [&] {
    Collector collector;
    EXPECT_TRUE(engine->submit(request, collector.stream()).ok());
    EXPECT_TRUE(collector.wait(2));
    expect_no_blocks_used(*engine);
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
