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
  expect_forks_score_alike(request, 0.7, /*hold_as_many=*/false);
}

// Branches of a lookahead have windows of their own text.
TEST_F(GpuWindowTest, LookaheadsSeeTheirWindow) {
  expect_lookahead_alike(
      3, 16, 180, [](int) { return 200; }, 0.25);
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
