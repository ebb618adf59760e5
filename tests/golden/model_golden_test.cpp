// Real models against Hugging Face transformers (float32, the same GGUF): greedy tokens and logits of varied
// prompts.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/loader/model_file.h"
#include "tests/tools/model_driver.h"
#include "tests/unit/engine/engine_harness.h"

namespace kvcrush {
namespace {

// Both sides compute in float32 with sums in different orders. A residual stream of L layers adds some 2 L
// matrix products of up to n terms; with random rounding each loses about sqrt(n) units (2^-24) of its
// magnitude, together sqrt(2 L) x sqrt(n) x 6e-8 relative. SmolLM2 (30 layers, 1536 terms, logits up to 25)
// and Gemma (18 layers, 2048 terms, logits up to 29): 5e-4 is expected at worst; twice that is allowed. The
// smallest gap between the best two tokens over all steps is 0.003 and 0.005: tokens must therefore be equal.
struct Golden {
  const char* name;
  const char* model_path;
  const char* cases_path;
  double logit_tolerance;
  int num_cases;
  // Of quantised arithmetic, below.
  double quantised_mean_error;
  double quantised_worst_error;
};
constexpr Golden kGoldens[] = {
    {"SmolLM2", ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf", "tests/golden/greedy.json", 1e-3, 20, 0.4,
     4.0},
    {"Gemma3", ".cache/models/gemma-3-270m-q4_k_m.gguf", "tests/golden/greedy_gemma3.json", 1e-3, 17, 0.4,
     4.0},
};

class ModelGoldenTest : public ::testing::TestWithParam<Golden> {};
INSTANTIATE_TEST_SUITE_P(Models, ModelGoldenTest, ::testing::ValuesIn(kGoldens),
                         [](const auto& test) { return std::string(test.param.name); });

std::shared_ptr<const ModelFile> load_real_model(const Golden& golden) {
  Result<ModelFile> model = load_model_file(golden.model_path);
  EXPECT_TRUE(model.ok()) << model.status().message();
  return std::make_shared<const ModelFile>(std::move(model).value());
}

nlohmann::json load_cases(const Golden& golden) {
  return nlohmann::json::parse(std::ifstream(golden.cases_path))["cases"];
}

struct LogitErrors {
  double worst = 0;
  double mean = 0;
  int compared = 0;
};

LogitErrors compare_logits(const Golden& golden, const char* weight_dtype) {
  EngineConfig config;
  config.weight_dtype = weight_dtype;
  config.max_batch_tokens = 256;
  config.max_context_tokens = 4096;
  config.kv_memory_bytes = std::uint64_t{512} << 20;
  testing::ModelDriver driver(load_real_model(golden), config);
  LogitErrors errors;
  for (const auto& one : load_cases(golden)) {
    const auto output = one["output"].get<std::vector<TokenId>>();
    for (const auto& step : one["steps"]) {
      auto ids = one["prompt"].get<std::vector<TokenId>>();
      ids.insert(ids.end(), output.begin(), output.begin() + step["step"].get<int>());
      const auto num_tokens = static_cast<int>(ids.size());
      const std::vector<float> logits =
          driver.run({{.ids = std::move(ids), .decode_from = num_tokens}}, config.max_batch_tokens).front();
      for (std::size_t i = 0; i < step["ids"].size(); ++i) {
        const double error = std::abs(logits[step["ids"][i].get<int>()] - step["logits"][i].get<double>());
        errors.worst = std::max(errors.worst, error);
        errors.mean += error;
        ++errors.compared;
      }
    }
  }
  errors.mean /= errors.compared;
  EXPECT_GE(errors.compared, golden.num_cases * 3 * 256);
  std::printf("error over %d logits: worst %.2e, mean %.2e\n", errors.compared, errors.worst, errors.mean);
  return errors;
}

TEST_P(ModelGoldenTest, LogitsMatchTransformers) {
  EXPECT_LT(compare_logits(GetParam(), "f32").worst, GetParam().logit_tolerance);
}

// Weights in the file's blocks are the same weights; what differs is that activations are rounded to int8 on
// their way into 120 projections, by 1/254 of a block's largest at the most, and K, V and probabilities to
// bfloat16 on some CPUs. Logits here spread over 25; a wrong row order or scale makes them wrong by several.
TEST_P(ModelGoldenTest, QuantisedArithmeticStaysCloseInLogits) {
  const LogitErrors errors = compare_logits(GetParam(), "auto");
  EXPECT_LT(errors.mean, GetParam().quantised_mean_error);
  EXPECT_LT(errors.worst, GetParam().quantised_worst_error);
}

TEST_P(ModelGoldenTest, GreedyTokensEqualTransformersAloneAndBatched) {
  EngineObserver observer;
  EngineConfig config;
  config.weight_dtype = "f32";
  config.kv_memory_bytes = std::uint64_t{512} << 20;
  Result<std::unique_ptr<Engine>> engine = Engine::create(load_real_model(GetParam()), config, observer);
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  std::vector<EngineRequest> requests;
  std::vector<std::vector<TokenId>> expected;
  for (const auto& one : load_cases(GetParam())) {
    expected.push_back(one["output"].get<std::vector<TokenId>>());
    requests.push_back(testing::greedy_request("g" + std::to_string(requests.size()),
                                               one["prompt"].get<std::vector<TokenId>>(),
                                               static_cast<int>(expected.back().size())));
  }
  ASSERT_EQ(static_cast<int>(requests.size()), GetParam().num_cases);
  const std::vector<testing::Outcome> together = testing::run_together(**engine, requests);
  for (std::size_t i = 0; i < requests.size(); ++i)
    EXPECT_EQ(together[i].tokens, expected[i]) << "prompt " << i;
  for (const std::size_t i : {std::size_t{3}, std::size_t{16}, requests.size() - 1}) {
    EXPECT_EQ(testing::run(**engine, requests[i]).tokens, expected[i]) << "prompt " << i << " alone";
  }
}

}  // namespace
}  // namespace kvcrush
