// The real model against Hugging Face transformers (float32, the same GGUF): greedy tokens and logits of 20
// varied prompts.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "engine/kernels/parallel.h"
#include "engine/loader/model_file.h"
#include "engine/model/model_runner.h"
#include "engine/scheduler/scheduler.h"
#include "tests/unit/engine/engine_harness.h"

namespace kvcrush {
namespace {

constexpr const char* kModelPath = ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf";

// Both sides compute in float32 with sums in different orders. A residual stream of 30 layers adds some 2 x
// 30 matrix products of up to 1536 terms; with random rounding each loses about sqrt(1536) units (2^-24) of
// its magnitude, together sqrt(60) x sqrt(1536) x 6e-8 = 1.8e-5 relative. Logits reach 25 here, so an error
// of 5e-4 is expected at worst; twice that is allowed. The smallest gap between the best two tokens over all
// 1280 steps is 0.003: tokens must therefore be equal.
constexpr double kLogitTolerance = 1e-3;

std::shared_ptr<const ModelFile> load_real_model() {
  Result<ModelFile> model = load_model_file(kModelPath);
  EXPECT_TRUE(model.ok()) << model.status().message();
  return std::make_shared<const ModelFile>(std::move(model).value());
}

nlohmann::json load_cases() {
  return nlohmann::json::parse(std::ifstream("tests/golden/greedy.json"))["cases"];
}

// Logits of the last of `ids`, computed from nothing in chunks.
std::vector<float> last_logits(ModelRunner& runner, BlockPool& pool, const ModelConfig& config,
                               std::vector<TokenId> ids) {
  auto owned = std::make_unique<Sequence>(
      SequenceCache(pool, config.num_layers, make_kv_format(KvDtype::kF32, config.head_dim)));
  Sequence& sequence = *owned;
  sequence.num_prompt_tokens = static_cast<int>(ids.size());
  sequence.token_ids = std::move(ids);
  PrefixCache prefixes(pool, config.num_layers);
  Scheduler scheduler({.max_batch_tokens = 256, .max_running_sequences = 1}, pool, prefixes);
  scheduler.add(std::move(owned));
  while (true) {
    const StepPlan plan = scheduler.plan();
    const at::Tensor logits = runner.run(plan);
    sequence.num_computed_tokens += plan.chunks[0].num_tokens;
    if (plan.chunks[0].num_logit_rows == 0) continue;
    const float* row = logits.const_data_ptr<float>();
    return {row, row + config.vocab_size};
  }
}

struct LogitErrors {
  double worst = 0;
  double mean = 0;
  int compared = 0;
};

LogitErrors compare_logits(WeightStorage storage) {
  set_num_kernel_threads(static_cast<int>(std::max(1U, std::thread::hardware_concurrency())));
  const std::shared_ptr<const ModelFile> model = load_real_model();
  const ModelConfig& config = model->config;
  const KvLayout layout{.num_kv_heads = config.num_kv_heads, .head_dim = config.head_dim};
  BlockPool pool(4096 * config.num_layers / cpu::kTileTokens);
  ModelRunner runner(config, load_weights(model, 4096, at::kCPU, storage), layout, pool.num_blocks(), 256,
                     at::kCPU);
  LogitErrors errors;
  for (const auto& golden : load_cases()) {
    const auto output = golden["output"].get<std::vector<TokenId>>();
    for (const auto& step : golden["steps"]) {
      auto ids = golden["prompt"].get<std::vector<TokenId>>();
      ids.insert(ids.end(), output.begin(), output.begin() + step["step"].get<int>());
      const std::vector<float> logits = last_logits(runner, pool, config, std::move(ids));
      for (std::size_t i = 0; i < step["ids"].size(); ++i) {
        const double error = std::abs(logits[step["ids"][i].get<int>()] - step["logits"][i].get<double>());
        errors.worst = std::max(errors.worst, error);
        errors.mean += error;
        ++errors.compared;
      }
    }
  }
  errors.mean /= errors.compared;
  EXPECT_EQ(errors.compared, 20 * 3 * 256);
  std::printf("error over %d logits: worst %.2e, mean %.2e\n", errors.compared, errors.worst, errors.mean);
  return errors;
}

TEST(ModelGoldenTest, LogitsMatchTransformers) {
  EXPECT_LT(compare_logits(WeightStorage::kFloat32).worst, kLogitTolerance);
}

// Weights in the file's blocks are the same weights; what differs is that activations are rounded to int8 on
// their way into 120 projections, by 1/254 of a block's largest at the most, and K, V and probabilities to
// bfloat16 on some CPUs. Logits here spread over 25; a wrong row order or scale makes them wrong by several.
TEST(ModelGoldenTest, QuantisedArithmeticStaysCloseInLogits) {
  const LogitErrors errors = compare_logits(WeightStorage::kAsStored);
  EXPECT_LT(errors.mean, 0.4);
  EXPECT_LT(errors.worst, 4.0);
}

TEST(ModelGoldenTest, GreedyTokensEqualTransformersAloneAndBatched) {
  EngineObserver observer;
  EngineConfig config;
  config.weight_dtype = "f32";
  config.kv_memory_bytes = std::uint64_t{512} << 20;
  Result<std::unique_ptr<Engine>> engine = Engine::create(load_real_model(), config, observer);
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  std::vector<EngineRequest> requests;
  std::vector<std::vector<TokenId>> expected;
  for (const auto& golden : load_cases()) {
    expected.push_back(golden["output"].get<std::vector<TokenId>>());
    requests.push_back(testing::greedy_request("g" + std::to_string(requests.size()),
                                               golden["prompt"].get<std::vector<TokenId>>(),
                                               static_cast<int>(expected.back().size())));
  }
  ASSERT_EQ(requests.size(), 20U);
  const std::vector<testing::Outcome> together = testing::run_together(**engine, requests);
  for (std::size_t i = 0; i < requests.size(); ++i)
    EXPECT_EQ(together[i].tokens, expected[i]) << "prompt " << i;
  for (std::size_t i : {std::size_t{3}, std::size_t{16}, std::size_t{19}}) {
    EXPECT_EQ(testing::run(**engine, requests[i]).tokens, expected[i]) << "prompt " << i << " alone";
  }
}

}  // namespace
}  // namespace kvcrush
