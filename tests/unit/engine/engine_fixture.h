// Engines over the tiny model, with pools of any size.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "tests/unit/engine/engine_harness.h"
#include "tests/unit/engine/tiny_model.h"

namespace kvcrush::testing {

inline constexpr std::uint64_t kBlockBytes =
    2 * 2 * 16 * 16 * 4;  // K and V, 2 KV heads, head_dim 16, 16 tokens, float32
inline constexpr int kLayers = 3;

class RecordingObserver : public EngineObserver {
 public:
  void on_preempted(RequestTag, std::int64_t, bool swapped) override {
    ++num_preemptions;
    num_swaps += swapped ? 1 : 0;
  }
  void on_prefix_lookup(RequestTag, int num_prompt_tokens, int num_hit_tokens) override {
    num_queried_tokens += num_prompt_tokens;
    num_hit_tokens_total += num_hit_tokens;
  }
  void on_pruned(RequestTag, const PruneReport& report) override {
    ++num_prunes;
    num_timed_prunes += report.seconds ? 1 : 0;
  }
  void on_prune_timed(double) override { ++num_timed_prunes; }
  void on_step(const StepReport& report) override {
    num_prefill_tokens += report.num_prefill_tokens;
    most_running = std::max(most_running.load(), report.num_running);
  }
  void on_step_failed(std::string_view what) override { ADD_FAILURE() << what; }
  std::atomic<int> num_preemptions = 0;
  std::atomic<int> num_swaps = 0;
  std::atomic<int> num_prunes = 0;
  std::atomic<int> num_timed_prunes = 0;
  std::atomic<int> num_queried_tokens = 0;
  std::atomic<int> num_hit_tokens_total = 0;
  std::atomic<int> num_prefill_tokens = 0;
  std::atomic<int> most_running = 0;
};

class EngineTest : public ::testing::Test {
 protected:
  // Pool for `pool_tokens` tokens of one uncompressed sequence.
  static EngineConfig config_for(int pool_tokens) {
    EngineConfig config;
    config.kv_memory_bytes = kBlockBytes * kLayers * ((pool_tokens + 15) / 16);
    config.max_batch_tokens = 64;
    config.max_running_sequences = 16;
    config.num_threads = 2;
    return config;
  }
  std::unique_ptr<Engine> make_engine(int pool_tokens, int max_batch_tokens = 64, int max_running = 16,
                                      int max_waiting = 256) {
    EngineConfig config = config_for(pool_tokens);
    config.max_batch_tokens = max_batch_tokens;
    config.max_running_sequences = max_running;
    config.max_waiting_sequences = max_waiting;
    return make_engine(config);
  }
  std::unique_ptr<Engine> make_engine(const EngineConfig& config) {
    Result<std::unique_ptr<Engine>> engine = Engine::create(model_, config, observer_);
    EXPECT_TRUE(engine.ok()) << engine.status().message();
    return std::move(engine).value();
  }

  static CompressionParams quarter(BasePolicy policy = BasePolicy::kSnapKv) {
    CompressionParams params = preset_params(Preset::kPaper, policy);
    params.budget_fraction = 0.25;
    params.window_tokens = 8;
    params.observed_queries = 8;
    return params;
  }

  // `shared` tokens that all of them have, then `own` ones.
  static std::vector<TokenId> prompt(int shared, int own, unsigned seed) {
    std::vector<TokenId> ids = random_prompt(shared, kTinyVocab, 1000);
    const std::vector<TokenId> rest = random_prompt(own, kTinyVocab, seed);
    ids.insert(ids.end(), rest.begin(), rest.end());
    return ids;
  }
  // Sixteen samples of one prompt say, each of them, what it would say alone.
  static void expect_samples_as_alone(Engine& engine, bool bypass_prefix_cache) {
    EngineRequest request = greedy_request("a", prompt(500, 0, 0), 40);
    request.num_samples = 16;
    request.sampling.temperature = 1;
    request.bypass_prefix_cache = bypass_prefix_cache;
    Collector collector;
    ASSERT_TRUE(engine.submit(request, collector.stream()).ok());
    ASSERT_TRUE(collector.wait(16));
    for (int i = 0; i < 16; ++i) EXPECT_EQ(collector.tokens(i).size(), 40U);
    EngineRequest alone = request;
    alone.num_samples = 1;
    for (const int index : {0, 7}) {
      alone.request_id = "b" + std::to_string(index);
      alone.sampling.seed = request.sampling.seed + static_cast<std::uint64_t>(index);
      EXPECT_EQ(run(engine, alone).tokens, collector.tokens(index));
    }
    expect_no_blocks_used(engine);
  }
  static void expect_no_blocks_used(Engine& engine) {
    ASSERT_TRUE(engine.wait_idle(std::chrono::seconds(30)));
    EXPECT_EQ(engine.stats().blocks_used, 0);
    EXPECT_EQ(engine.stats().num_running, 0);
  }

  // Prompts of many lengths, half of them compressed, some during prefill.
  static std::vector<EngineRequest> mixed_requests(int count, int max_tokens = 24) {
    std::vector<EngineRequest> requests;
    for (int i = 0; i < count; ++i) {
      EngineRequest request = greedy_request(
          "r" + std::to_string(i), random_prompt(20 + i * 37 % 300, kTinyVocab, i), max_tokens + i % 9);
      if (i % 2 == 1) {
        CompressionParams params = quarter(static_cast<BasePolicy>(i / 2 % 6));
        if (i % 12 == 1) params.lookahead_tokens = 4, params.lookahead_branches = 1 + i % 3;
        if (i % 4 == 1) params.token_sets = TokenSets::kPerKvHead;
        if (i % 3 == 1) params.when = PruneWhen::kDuringPrefill;
        if (i % 7 == 3) params.layer_budgets = LayerBudgets::kPyramid;
        if (i % 5 == 3) params.value_norm = reads_attention(params.policy);
        request.cache_policies[0].compression = params;
      }
      if (i % 4 >= 2) request.cache_policies[0].kv_dtype = static_cast<KvDtype>(i / 4 % 5);
      if (i % 5 == 2) {
        request.sampling.temperature = 0.9F;
        request.sampling.seed = i;
      }
      requests.push_back(std::move(request));
    }
    return requests;
  }

  RecordingObserver observer_;  // outlives the engines of a test
  std::shared_ptr<const ModelFile> model_ = make_tiny_model();
};

}  // namespace kvcrush::testing
