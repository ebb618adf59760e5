// When the simulated GPU records a step, and what happens where it cannot.
#include "tests/cuda_sim/simulated_gpu.h"
#include "tests/unit/gpu/gpu_engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class GpuRecordingTest : public GpuEngineTest {
 protected:
  GpuRecordingTest() { graphs_ = make_engine("cuda:0", "f32", /*cuda_graphs=*/true); }
  std::unique_ptr<Engine> graphs_;
};

TEST_F(GpuRecordingTest, GraphsServeLaterRequestsToo) {
  EngineRequest request = greedy_request("a", random_prompt(40, kTinyVocab, 5), 24);
  request.sampling.ignore_eos = true;
  const GraphCounts first = graph_counts();
  const std::vector<TokenId> tokens = run(*graphs_, request).tokens;
  const GraphCounts before = graph_counts();
  EXPECT_GT(before.recorded, first.recorded);
  EXPECT_GT(before.started - first.started, 2 * (before.recorded - first.recorded));
  EXPECT_EQ(run(*graphs_, request).tokens, tokens);
  const GraphCounts after = graph_counts();
  EXPECT_EQ(after.recorded, before.recorded);
  EXPECT_GE(after.started - before.started, 20);
}

TEST_F(GpuRecordingTest, WithoutThemNothingIsRecorded) {
  const GraphCounts before = graph_counts();
  run(*gpu_, greedy_request("a", random_prompt(40, kTinyVocab, 5), 12));
  EXPECT_EQ(graph_counts().recorded, before.recorded);
}

// A step that cannot be recorded ends its sequences, and the engine goes on without graphs.
TEST_F(GpuRecordingTest, WhereRecordingFailsStepsGoOnWithoutIt) {
  EngineRequest request = greedy_request("a", random_prompt(40, kTinyVocab, 5), 24);
  request.sampling.ignore_eos = true;
  const std::vector<TokenId> tokens = run(*gpu_, request).tokens;
  FailureObserver failures;
  const auto engine = make_engine("cuda:0", "f32", /*cuda_graphs=*/true, failures);
  fail_recording(1);
  EXPECT_EQ(run(*engine, request).finish.reason, FinishReason::kError);
  fail_recording(0);
  EXPECT_EQ(failures.num_failed_steps, 1);
  const GraphCounts before = graph_counts();
  EXPECT_EQ(run(*engine, request).tokens, tokens);
  EXPECT_EQ(graph_counts().started, before.started);
}

TEST_F(GpuRecordingTest, ADeviceThatRecordsNothingStopsTheStart) {
  fail_recording(1);
  EngineConfig config;
  config.device = "cuda:0";
  config.kv_memory_bytes = 8 << 20;
  config.cuda_graphs = true;
  const Status status = Engine::create(model_, config, observer_).status();
  fail_recording(0);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("recording a graph"), std::string::npos) << status.message();
}

TEST_F(GpuRecordingTest, TheCpuHasNoGraphs) {
  EngineConfig config;
  config.kv_memory_bytes = 8 << 20;
  config.cuda_graphs = true;
  const Status status = Engine::create(model_, config, observer_).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("cuda_graphs is true"), std::string::npos);
}

}  // namespace
}  // namespace kvcrush
