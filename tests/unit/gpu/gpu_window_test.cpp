// Sliding windows on a GPU: layers that hold no more than their window, pruned or not, against the CPU.
#include "tests/unit/gpu/gpu_engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class GpuWindowTest : public GpuEngineTest {
 protected:
  static constexpr int kWindow = 100;

  GpuWindowTest() {
    model_ = make_family_model(2, kHeadDim, kWindow);
    cpu_ = make_engine("cpu");
    gpu_ = make_engine("cuda:0");
  }
};

TEST_F(GpuWindowTest, WholeCachesScoreAsTheCpuDoes) {
  for (const KvDtype dtype : {KvDtype::kF16, KvDtype::kBF16, KvDtype::kInt8, KvDtype::kInt4}) {
    EngineRequest request = score_request(260, 40, 100 + static_cast<std::uint64_t>(dtype));
    request.cache_policies[0].kv_dtype = dtype;
    expect_same_scores(request, 0.9, dtype == KvDtype::kInt4 ? 0.3F : 0.1F);
  }
}

// Texts go on until slots that pruning left have gone from the window too.
TEST_F(GpuWindowTest, EveryPolicyPrunesWindowsAsOnTheCpu) {
  for (const BasePolicy policy : {BasePolicy::kSnapKv, BasePolicy::kH2o, BasePolicy::kTova,
                                  BasePolicy::kStreaming, BasePolicy::kKNorm, BasePolicy::kKeyDiff}) {
    EngineRequest request = score_request(230, 130, 120 + static_cast<std::uint64_t>(policy));
    request.cache_policies[0].compression = quarter(policy);
    request.cache_policies[0].compression->token_sets =
        policy == BasePolicy::kTova || policy == BasePolicy::kKNorm ? TokenSets::kPerKvHead
                                                                    : TokenSets::kPerLayer;
    if (policy == BasePolicy::kH2o) request.cache_policies[0].kv_dtype = KvDtype::kInt8;
    expect_same_scores(request, 0.7, 0.1F, /*holds_as_many=*/false);
  }
}

TEST_F(GpuWindowTest, PromptsArePrunedWhileTheyComeIn) {
  EngineRequest request = score_request(900, 60, 140);
  request.cache_policies[0].compression = quarter(BasePolicy::kStreaming);
  request.cache_policies[0].compression->budget_fraction = 0.05;
  request.cache_policies[0].compression->when = PruneWhen::kDuringPrefill;
  expect_same_scores(request, 1.0, 0.1F, /*holds_as_many=*/false);
}

TEST_F(GpuWindowTest, SamplesForkFromOnePrefill) {
  EngineRequest request = score_request(300, 40, 150);
  request.cache_policies.assign(3, CachePolicy{});
  request.num_samples = 3;
  request.cache_policies[1].compression = quarter(BasePolicy::kSnapKv);
  request.cache_policies[2].compression = quarter(BasePolicy::kH2o);
  Collector on_cpu;
  Collector on_gpu;
  ASSERT_TRUE(cpu_->submit(request, on_cpu.stream()).ok());
  ASSERT_TRUE(gpu_->submit(request, on_gpu.stream()).ok());
  ASSERT_TRUE(on_cpu.wait(3));
  ASSERT_TRUE(on_gpu.wait(3));
  for (int sample = 0; sample < 3; ++sample) {
    int close = 0;
    for (std::size_t i = 0; i < 40; ++i)
      close += std::abs(on_gpu.score(sample).logprobs[i] - on_cpu.score(sample).logprobs[i]) < 0.05F ? 1 : 0;
    EXPECT_GE(close, sample == 0 ? 40 : 28) << "sample " << sample;
  }
}

// Branches of a lookahead have windows of their own text.
TEST_F(GpuWindowTest, LookaheadsSeeTheirWindow) {
  int same = 0;
  int all = 0;
  for (std::uint64_t seed = 180; seed < 183; ++seed) {
    EngineRequest request = greedy_request("l", random_prompt(200, kTinyVocab, seed), 16);
    request.cache_policies[0].compression = preset_params(Preset::kDefault, BasePolicy::kSnapKv);
    request.cache_policies[0].compression->budget_fraction = 0.25;
    request.cache_policies[0].compression->window_tokens = 8;
    request.cache_policies[0].compression->observed_queries = 8;
    const Outcome expected = run(*cpu_, request);
    const Outcome actual = run(*gpu_, request);
    EXPECT_GT(actual.finish.compression.lookahead_tokens, 0);
    EXPECT_EQ(actual.finish.compression.lookahead_tokens, expected.finish.compression.lookahead_tokens);
    ASSERT_EQ(actual.tokens.size(), expected.tokens.size());
    const auto parted =
        std::mismatch(actual.tokens.begin(), actual.tokens.end(), expected.tokens.begin()).first;
    same += static_cast<int>(parted - actual.tokens.begin());
    all += static_cast<int>(actual.tokens.size());
  }
  EXPECT_GE(same, all / 2) << "of " << all;
}

TEST_F(GpuWindowTest, PromptsBeginBehindWhatOthersComputed) {
  EngineRequest first = score_request(300, 8, 160);
  EngineRequest second = score_request(320, 24, 161);
  std::copy_n(first.prompt_token_ids.begin(), 280, second.prompt_token_ids.begin());
  score(*gpu_, first);
  expect_same_scores(second, 1.0);
  EXPECT_GE(score(*gpu_, second).finish.cached_prompt_tokens, 256);
}

TEST_F(GpuWindowTest, GraphsKnowThemToo) {
  const auto graphs = make_engine("cuda:0", "f32", /*cuda_graphs=*/true);
  for (const bool prunes : {false, true}) {
    EngineRequest request = greedy_request("g", random_prompt(150, kTinyVocab, 170), 90);
    request.sampling.ignore_eos = true;
    if (prunes) request.cache_policies[0].compression = quarter(BasePolicy::kSnapKv);
    const std::vector<TokenId> expected = run(*gpu_, request).tokens;
    const std::vector<TokenId> actual = run(*graphs, request).tokens;
    ASSERT_EQ(actual.size(), expected.size());
    const auto parted = std::mismatch(actual.begin(), actual.end(), expected.begin()).first;
    EXPECT_GE(parted - actual.begin(), 45) << prunes;  // where two tokens are as likely, texts may part
  }
  expect_no_blocks_used(*graphs);
}

}  // namespace
}  // namespace kvcrush
