// An engine on a GPU, simulated or real, beside one on the CPU.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <string_view>

#include "tests/unit/engine/engine_fixture.h"
#include "tests/unit/gpu/gpu_under_test.h"

namespace kvcrush::testing {

inline constexpr int kHeadDim = 64;

class FailureObserver : public RecordingObserver {
 public:
  void on_step_failed(std::string_view) override { ++num_failed_steps; }
  std::atomic<int> num_failed_steps = 0;
};

class GpuEngineTest : public ::testing::Test {
 protected:
  GpuEngineTest() : model_(make_tiny_model(2, kHeadDim)) {
    set_gpu_backend(&gpu_under_test());
    cpu_ = make_engine("cpu");
    gpu_ = make_engine("cuda:0");
  }
  ~GpuEngineTest() override {
    expect_no_blocks_used(*gpu_);
    cpu_.reset();
    gpu_.reset();
    set_gpu_backend(nullptr);
  }

  std::unique_ptr<Engine> make_engine(const std::string& device, const std::string& weights = "f32",
                                      bool cuda_graphs = false) {
    return make_engine(device, weights, cuda_graphs, observer_);
  }
  std::unique_ptr<Engine> make_engine(const std::string& device, const std::string& weights, bool cuda_graphs,
                                      EngineObserver& observer) {
    EngineConfig config;
    config.cuda_graphs = cuda_graphs;
    config.device = device;
    config.weight_dtype = weights;
    config.kv_dtype = "f16";
    config.kv_memory_bytes = 8 << 20;
    config.max_batch_tokens = 96;
    config.max_running_sequences = 16;
    config.num_threads = 1;
    Result<std::unique_ptr<Engine>> engine = Engine::create(model_, config, observer);
    EXPECT_TRUE(engine.ok()) << engine.status().message();
    return std::move(engine).value();
  }

  static void expect_no_blocks_used(Engine& engine) {
    ASSERT_TRUE(engine.wait_idle(std::chrono::seconds(60)));
    EXPECT_EQ(engine.stats().blocks_used, 0);
  }
  static EngineRequest score_request(int num_prompt, int num_scored, std::uint64_t seed) {
    EngineRequest request =
        greedy_request("s" + std::to_string(seed), random_prompt(num_prompt, kTinyVocab, seed), 1);
    request.continuation_token_ids = random_prompt(num_scored, kTinyVocab, seed + 1000);
    return request;
  }
  static CompressionParams quarter(BasePolicy policy) {
    CompressionParams params = preset_params(Preset::kPaper, policy);
    params.budget_fraction = 0.25;
    params.window_tokens = 8;
    params.observed_queries = 8;
    return params;
  }
  struct Answer {
    std::vector<float> logprobs;
    FinishEvent finish;
  };
  static Answer score(Engine& engine, const EngineRequest& request) {
    Collector collector;
    EXPECT_TRUE(engine.submit(request, collector.stream()).ok());
    EXPECT_TRUE(collector.wait());
    return {collector.score(0).logprobs, collector.finish(0)};
  }
  // Rounding to float16 in attention moves log-probabilities a little. Where it also moves a token over the
  // edge of the budget, those after it differ more: `share` of all must agree. A key that rounds to the next
  // code, a 255th (int8) or a fifteenth (int4) of a head's range further, moves them more: hence `tolerance`.
  // holds_as_many: a GPU may hold pruned slots of a window a little longer.
  void expect_same_scores(const EngineRequest& request, double share, float tolerance = 0.05F,
                          bool holds_as_many = true) {
    const Answer expected = score(*cpu_, request);
    const Answer actual = score(*gpu_, request);
    ASSERT_EQ(actual.logprobs.size(), expected.logprobs.size());
    int close = 0;
    float most = 0;
    for (std::size_t i = 0; i < expected.logprobs.size(); ++i) {
      ASSERT_TRUE(std::isfinite(actual.logprobs[i]));
      const float apart = std::abs(actual.logprobs[i] - expected.logprobs[i]);
      most = std::max(most, apart);
      close += apart < tolerance ? 1 : 0;
    }
    EXPECT_GE(close, share * static_cast<double>(expected.logprobs.size()))
        << request.request_id << ", " << most;
    EXPECT_GE(actual.finish.compression.kv_bytes_held, expected.finish.compression.kv_bytes_held);
    if (holds_as_many) {
      EXPECT_EQ(actual.finish.compression.kv_bytes_held, expected.finish.compression.kv_bytes_held);
    }
    EXPECT_EQ(actual.finish.compression.pruned, expected.finish.compression.pruned);
    EXPECT_EQ(actual.finish.compression.tokens_evicted.max, expected.finish.compression.tokens_evicted.max);
  }
  void expect_sixteen_bit_weights_come_close(const EngineRequest& request) {
    const Answer expected = score(*cpu_, request);
    for (const char* const weights : {"bf16", "f16"}) {
      auto engine = make_engine("cuda", weights);
      const Answer actual = score(*engine, request);
      ASSERT_EQ(actual.logprobs.size(), expected.logprobs.size());
      double difference = 0;
      for (std::size_t i = 0; i < expected.logprobs.size(); ++i)
        difference += std::abs(actual.logprobs[i] - expected.logprobs[i]);
      EXPECT_LT(difference / static_cast<double>(expected.logprobs.size()),
                std::string(weights) == "f16" ? 0.05 : 0.3)
          << weights;
    }
  }

  // Samples of one prefill, each with a policy of its own, the first one's the full cache. Of the others'
  // scores `share` must agree.
  void expect_forks_score_alike(const EngineRequest& request, double share, bool hold_as_many = true) {
    const auto num_samples = static_cast<std::size_t>(request.num_samples);
    Collector on_cpu;
    Collector on_gpu;
    ASSERT_TRUE(cpu_->submit(request, on_cpu.stream()).ok());
    ASSERT_TRUE(gpu_->submit(request, on_gpu.stream()).ok());
    ASSERT_TRUE(on_cpu.wait(num_samples));
    ASSERT_TRUE(on_gpu.wait(num_samples));
    for (int sample = 0; sample < request.num_samples; ++sample) {
      const std::vector<float> expected = on_cpu.score(sample).logprobs;
      const std::vector<float> actual = on_gpu.score(sample).logprobs;
      ASSERT_EQ(actual.size(), expected.size());
      int close = 0;
      for (std::size_t i = 0; i < expected.size(); ++i)
        close += std::abs(actual[i] - expected[i]) < 0.05F ? 1 : 0;
      EXPECT_GE(close, (sample == 0 ? 1.0 : share) * static_cast<double>(expected.size()))
          << "sample " << sample;
      if (hold_as_many) {
        EXPECT_EQ(on_gpu.finish(sample).compression.kv_bytes_held,
                  on_cpu.finish(sample).compression.kv_bytes_held);
      }
    }
  }
  // Greedy texts with the default preset, which looks ahead: they part where two tokens are as likely, so
  // half of all tokens must agree.
  void expect_lookahead_alike(int num_texts, int num_tokens, std::uint64_t seed,
                              const std::function<int(int)>& num_prompt_tokens, double budget) {
    int same = 0;
    int all = 0;
    for (int i = 0; i < num_texts; ++i) {
      EngineRequest request = greedy_request(
          "l", random_prompt(num_prompt_tokens(i), kTinyVocab, seed + static_cast<std::uint64_t>(i)),
          num_tokens);
      request.cache_policies[0].compression = preset_params(Preset::kDefault, BasePolicy::kSnapKv);
      request.cache_policies[0].compression->budget_fraction = budget;
      request.cache_policies[0].compression->window_tokens = 8;
      request.cache_policies[0].compression->observed_queries = 8;
      const Outcome expected = run(*cpu_, request);
      const Outcome actual = run(*gpu_, request);
      EXPECT_GT(actual.finish.compression.lookahead_tokens, 0);
      EXPECT_EQ(actual.finish.compression.lookahead_tokens, expected.finish.compression.lookahead_tokens);
      EXPECT_EQ(actual.finish.compression.kv_bytes_after, expected.finish.compression.kv_bytes_after);
      ASSERT_EQ(actual.tokens.size(), expected.tokens.size());
      const auto parted =
          std::mismatch(actual.tokens.begin(), actual.tokens.end(), expected.tokens.begin()).first;
      same += static_cast<int>(parted - actual.tokens.begin());
      all += static_cast<int>(actual.tokens.size());
    }
    EXPECT_GE(same, all / 2) << "of " << all;
  }

  std::shared_ptr<const ModelFile> model_;
  RecordingObserver observer_;
  std::unique_ptr<Engine> cpu_;
  std::unique_ptr<Engine> gpu_;
};

}  // namespace kvcrush::testing
