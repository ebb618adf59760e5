// Blocks that sequences share or give up for a while, on a GPU.
#include "tests/unit/gpu/gpu_engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

// The second prompt begins with blocks that the first computed, and prunes into copies of them.
TEST_F(GpuEngineTest, PromptsBeginWithWhatOthersComputed) {
  for (const bool prunes : {false, true}) {
    EngineRequest first = score_request(160, 8, 70);
    EngineRequest second = score_request(160, 12, 71);
    std::copy_n(first.prompt_token_ids.begin(), 110, second.prompt_token_ids.begin());
    for (EngineRequest* request : {&first, &second}) {
      request->cache_salt = prunes ? "pruned" : "full";
      if (prunes) request->cache_policies[0].compression = quarter(BasePolicy::kSnapKv);
    }
    score(*gpu_, first);
    expect_same_scores(second, prunes ? 0.7 : 1.0);
    EXPECT_GE(score(*gpu_, second).finish.cached_prompt_tokens, 96);
    expect_same_scores(first, prunes ? 0.7 : 1.0);  // its blocks are as they were
  }
}

TEST_F(GpuEngineTest, SwappedCachesComeBackAsTheyWere) {
  EngineConfig config;
  config.device = "cuda:0";
  config.weight_dtype = "f32";
  config.kv_dtype = "f16";
  config.kv_memory_bytes =
      std::uint64_t{3} * 12 * 2 * 2 * kHeadDim * 16 * 4;  // 12 blocks of 32 tokens in each layer
  config.max_batch_tokens = 96;
  config.max_running_sequences = 16;
  config.num_threads = 1;
  config.swap_memory_bytes = 64 << 20;
  Result<std::unique_ptr<Engine>> small = Engine::create(model_, config, observer_);
  ASSERT_TRUE(small.ok()) << small.status().message();
  std::vector<EngineRequest> requests;
  for (int i = 0; i < 6; ++i)
    requests.push_back(greedy_request("s" + std::to_string(i), random_prompt(60, kTinyVocab, 80 + i), 70));
  const std::vector<Outcome> expected = run_together(*gpu_, requests);
  const std::vector<Outcome> outcomes = run_together(**small, requests);
  EXPECT_GT(observer_.num_swaps, 0);
  std::size_t same = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto& tokens = outcomes[i].tokens;
    ASSERT_EQ(tokens.size(), expected[i].tokens.size());
    const auto first = std::mismatch(tokens.begin(), tokens.end(), expected[i].tokens.begin()).first;
    same += static_cast<std::size_t>(first - tokens.begin());
  }
  EXPECT_GE(same, 6U * 70U / 2U);  // batches differ, and with them roundings
  expect_no_blocks_used(**small);
}

TEST_F(GpuEngineTest, AModelThatComputesNanEndsWithAnError) {
  auto broken = std::make_shared<ModelFile>(*make_tiny_model(2, kHeadDim));
  EngineConfig config;
  config.device = "cuda:0";
  config.weight_dtype = "f32";
  config.kv_dtype = "f16";
  config.kv_memory_bytes = 8 << 20;
  config.num_threads = 1;
  config.faults = "nan=1";
  Result<std::unique_ptr<Engine>> engine = Engine::create(broken, config, observer_);
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  const Outcome outcome = run(**engine, greedy_request("n", {1, 2, 3}, 4));
  EXPECT_EQ(outcome.finish.reason, FinishReason::kError);
  EXPECT_TRUE(outcome.tokens.empty());
}

}  // namespace
}  // namespace kvcrush
