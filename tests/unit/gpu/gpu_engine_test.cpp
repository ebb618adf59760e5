// Engines on a GPU, simulated or real, against engines on the CPU: the same requests, the same memory, and
// the same answers up to what float16 attention may change.
#include "tests/unit/gpu/gpu_engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

TEST_F(GpuEngineTest, FullCacheScoresAsTheCpuDoes) {
  for (const KvDtype dtype : {KvDtype::kF16, KvDtype::kBF16, KvDtype::kInt8, KvDtype::kInt4}) {
    EngineRequest request = score_request(130, 24, 3 + static_cast<std::uint64_t>(dtype));
    request.cache_policies[0].kv_dtype = dtype;
    if (dtype == KvDtype::kInt4) {
      expect_same_scores(request, 0.9, 0.3F);
    } else {
      expect_same_scores(request, 1.0, dtype == KvDtype::kInt8 ? 0.1F : 0.05F);
    }
  }
}

TEST_F(GpuEngineTest, EveryPolicyPrunesAsOnTheCpu) {
  for (const BasePolicy policy : {BasePolicy::kSnapKv, BasePolicy::kH2o, BasePolicy::kTova,
                                  BasePolicy::kStreaming, BasePolicy::kKNorm, BasePolicy::kKeyDiff}) {
    const auto seed = 20 + static_cast<std::uint64_t>(policy);
    EngineRequest request = score_request(150, 16, seed);
    request.cache_policies[0].compression = quarter(policy);
    if (policy == BasePolicy::kSnapKv) request.cache_policies[0].compression->value_norm = true;
    if (policy == BasePolicy::kTova)
      request.cache_policies[0].compression->token_sets = TokenSets::kPerKvHead;
    if (policy == BasePolicy::kH2o) request.cache_policies[0].kv_dtype = KvDtype::kInt4;
    expect_same_scores(request, 0.7, request.cache_policies[0].kv_dtype == KvDtype::kInt4 ? 0.3F : 0.05F);
  }
}

TEST_F(GpuEngineTest, WhatFamiliesDifferIn) {
  model_ = make_family_model(2, kHeadDim, /*window=*/2048);  // as long as the context
  cpu_ = make_engine("cpu");
  gpu_ = make_engine("cuda:0");
  expect_same_scores(score_request(130, 24, 70), 1.0);
  EngineRequest request = score_request(150, 16, 71);
  request.cache_policies[0].compression = quarter(BasePolicy::kStreaming);
  expect_same_scores(request, 1.0);
}

TEST_F(GpuEngineTest, DefaultPresetLooksAheadAndGreedyOutputAgrees) {
  expect_lookahead_alike(
      4, 12, 40, [](int i) { return 90 + 20 * i; }, 0.5);
}

TEST_F(GpuEngineTest, SamplesForkFromOnePrefill) {
  EngineRequest request = score_request(300, 12, 60);
  request.cache_policies.assign(3, CachePolicy{});
  request.num_samples = 3;
  request.cache_policies[1].compression = quarter(BasePolicy::kSnapKv);
  request.cache_policies[2].compression = quarter(BasePolicy::kH2o);
  request.cache_policies[2].kv_dtype = KvDtype::kInt8;
  expect_forks_score_alike(request, 0.66);
}

// Which tokens stay depends on no rounding here; where it does, a token that goes early changes all that
// come.
TEST_F(GpuEngineTest, PromptsArePrunedWhileTheyComeIn) {
  EngineRequest request = score_request(570, 8, 61);
  request.cache_policies[0].compression = quarter(BasePolicy::kStreaming);
  request.cache_policies[0].compression->budget_fraction = 0.05;
  request.cache_policies[0].compression->when = PruneWhen::kDuringPrefill;
  expect_same_scores(request, 1.0);
  request.cache_policies[0].compression = quarter(BasePolicy::kSnapKv);
  request.cache_policies[0].compression->budget_fraction = 0.05;
  request.cache_policies[0].compression->when = PruneWhen::kDuringPrefill;
  expect_same_scores(request, 0.1);
}

// Draws of both devices are the same function of seed and step, so they part only where logits do.
TEST_F(GpuEngineTest, SamplesOnTheDeviceAsTheCpuDoes) {
  int same = 0;
  int all = 0;
  for (int i = 0; i < 6; ++i) {
    EngineRequest request =
        greedy_request("d" + std::to_string(i), random_prompt(30 + 5 * i, kTinyVocab, 300 + i), 14);
    request.sampling.temperature = i == 0 ? 0.0F : 0.8F;
    request.sampling.seed = static_cast<std::uint64_t>(i);
    request.sampling.top_p = i % 2 == 0 ? 0.9F : 1.0F;
    request.sampling.top_k = i == 3 ? 5 : 0;
    request.sampling.min_p = i == 4 ? 0.05F : 0.0F;
    request.sampling.repetition_penalty = i >= 2 ? 1.3F : 1.0F;
    request.sampling.frequency_penalty = i == 5 ? 0.5F : 0.0F;
    request.sampling.num_logprobs = 3;
    const Outcome expected = run(*cpu_, request);
    Collector collector;
    ASSERT_TRUE(gpu_->submit(request, collector.stream()).ok());
    ASSERT_TRUE(collector.wait());
    const std::vector<TokenId> tokens = collector.tokens();
    ASSERT_EQ(tokens.size(), expected.tokens.size());
    const auto parted = std::mismatch(tokens.begin(), tokens.end(), expected.tokens.begin()).first;
    same += static_cast<int>(parted - tokens.begin());
    all += static_cast<int>(tokens.size());
    for (const TokenEvent& event : collector.events()) {
      ASSERT_TRUE(event.logprob.has_value());
      EXPECT_EQ(event.logprob->token, event.token);
      ASSERT_EQ(event.top_logprobs.size(), 3U);
      EXPECT_GE(event.top_logprobs[0].logprob, event.top_logprobs[1].logprob);
    }
  }
  EXPECT_GE(same, all * 8 / 10) << "of " << all;
}

// Rows of one chunk are sampled on the device each at its own step; with penalties on the host. A chunk of
// several tokens goes through another attention kernel than one of a token, so texts may part where two
// tokens are as likely.
TEST_F(GpuEngineTest, DraftsThatAreLookedUpSaveStepsAndChangeNoToken) {
  int same = 0;
  int all = 0;
  int accepted = 0;
  int wrong = 0;
  for (int i = 0; i < 6; ++i) {
    EngineRequest request =
        greedy_request("d" + std::to_string(i), random_prompt(30 + 5 * i, kTinyVocab, 700 + i), 80);
    request.sampling.temperature = i % 3 == 2 ? 0.3F : 0.0F;
    request.sampling.seed = static_cast<std::uint64_t>(i);
    request.sampling.frequency_penalty = i == 4 ? 0.02F : 0.0F;
    request.sampling.min_tokens = i == 1 ? 70 : 0;
    request.sampling.ignore_eos = i != 1;
    if (i == 3) request.cache_policies[0].compression = quarter(BasePolicy::kSnapKv);
    const Outcome expected = run(*gpu_, request);
    request.lookup_tokens = 8;
    const Outcome actual = run(*gpu_, request);
    const auto length = std::min(actual.tokens.size(), expected.tokens.size());
    const auto parted =
        std::mismatch(actual.tokens.begin(), actual.tokens.begin() + static_cast<std::ptrdiff_t>(length),
                      expected.tokens.begin())
            .first;
    same += static_cast<int>(parted - actual.tokens.begin());
    all += static_cast<int>(expected.tokens.size());
    accepted += actual.finish.accepted_draft_tokens;
    wrong += actual.finish.drafted_tokens - actual.finish.accepted_draft_tokens;
  }
  EXPECT_GE(same, all * 9 / 10) << "of " << all;
  EXPECT_GT(accepted, 40);
  EXPECT_GT(wrong, 5);
}

TEST_F(GpuEngineTest, SixteenBitWeightsComeClose) {
  expect_sixteen_bit_weights_come_close(score_request(100, 16, 80));
}

// The last chunk has 8 rows, so few that gate and up projection are one kernel, of GELU here.
TEST_F(GpuEngineTest, SixteenBitWeightsOfFamiliesComeClose) {
  model_ = make_family_model(2, kHeadDim, /*window=*/2048, /*hidden_size=*/64);
  cpu_ = make_engine("cpu");
  expect_sixteen_bit_weights_come_close(score_request(96, 8, 81));
}

// Also where nothing waits for them: by the time a later step's tokens are there.
TEST_F(GpuEngineTest, PrunesAreTimed) {
  EngineRequest request = greedy_request("t", random_prompt(120, kTinyVocab, 95), 4);
  request.cache_policies.assign(3, CachePolicy{});
  request.num_samples = 3;
  request.cache_policies[0].compression = quarter(BasePolicy::kSnapKv);
  request.cache_policies[1].compression = quarter(BasePolicy::kKNorm);
  const auto expect_times = [&](const EngineRequest& one, int num_pruned) {
    const int before = observer_.num_prunes;
    Collector collector;
    ASSERT_TRUE(gpu_->submit(one, collector.stream()).ok());
    ASSERT_TRUE(collector.wait(one.num_samples));
    for (int sample = 0; sample < one.num_samples; ++sample) {
      const CompressionOutcome& outcome = collector.finish(sample).compression;
      for (const double ms : {outcome.prune_ms, outcome.score_ms, outcome.select_ms, outcome.compact_ms})
        EXPECT_EQ(ms > 0, sample < num_pruned) << sample;
      EXPECT_NEAR(outcome.prune_ms, outcome.score_ms + outcome.select_ms + outcome.compact_ms, 1e-6);
    }
    EXPECT_EQ(observer_.num_prunes - before, num_pruned);
    EXPECT_EQ(observer_.num_timed_prunes, observer_.num_prunes);
  };
  expect_times(request, 2);
  request.num_samples = 1;
  request.cache_policies.resize(1);
  expect_times(request, 1);
}

TEST_F(GpuEngineTest, RefusesWhatItCannotDo) {
  EngineRequest request = score_request(100, 8, 90);
  request.cache_policies[0].compression = quarter(BasePolicy::kSnapKv);
  request.cache_policies[0].compression->granularity = Granularity::kBlock;
  Collector collector;
  const Status status = gpu_->submit(request, collector.stream());
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("granularity"), std::string::npos);

  EngineConfig config;
  config.device = "cuda:7";
  config.kv_memory_bytes = 8 << 20;
  EXPECT_EQ(Engine::create(model_, config, observer_).status().code(), StatusCode::kInvalidArgument);
  config.device = "cuda";
  config.fills_gpu = true;
  config.max_batch_tokens = 1 << 30;  // workspace beyond what any card has
  const Status full = Engine::create(model_, config, observer_).status();
  EXPECT_EQ(full.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(full.message().find("weights take"), std::string::npos) << full.message();
}

TEST_F(GpuEngineTest, AutoTakesTheGpuAndFillsIt) {
  EngineConfig config;
  config.device = "auto";
  config.kv_dtype = "f16";
  config.fills_gpu = true;
  const Result<std::unique_ptr<Engine>> engine = Engine::create(model_, config, observer_);
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  EXPECT_GT((*engine)->limits().num_blocks * (*engine)->limits().block_bytes, std::int64_t{1} << 29);
}

}  // namespace
}  // namespace kvcrush
