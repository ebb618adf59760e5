// The table of architectures, and what each row makes of config.json. That the result computes what
// transformers computes is shown in tests/oracle/families.
#include "engine/loader/architecture.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "engine/loader/hf_config.h"
#include "tests/unit/loader/builders.h"

namespace kvcrush {
namespace {

using nlohmann::json;
using testing::small_config;

ModelConfig read(const std::string& model_type, const json& changes = json::object()) {
  json config = small_config();
  config["model_type"] = model_type;
  const Architecture* architecture = architecture_of_model_type(model_type);
  if (architecture != nullptr) config["architectures"] = {architecture->model_class};
  if (architecture != nullptr && architecture->activation == Activation::kGeluTanh)
    config.erase("hidden_act");
  config.update(changes);
  Result<HfConfig> result = read_hf_config(config, "config.json");
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? result->model : ModelConfig{};
}

std::string error_of(const std::string& model_type, const json& changes) {
  json config = small_config();
  config["model_type"] = model_type;
  config["architectures"] = {architecture_of_model_type(model_type)->model_class};
  config.update(changes);
  const Result<HfConfig> result = read_hf_config(config, "config.json");
  return result.ok() ? "" : result.status().message();
}

TEST(Architecture, ReadmeShowsTheTable) {
  std::ifstream file("README.md");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_NE(text.str().find(architecture_table()), std::string::npos) << "README.md must have this table:\n"
                                                                      << architecture_table();
}

TEST(Architecture, DefaultsAreJson) {
  for (const Architecture& row : architectures()) {
    EXPECT_TRUE(json::parse(row.config_defaults).is_object()) << row.name;
    EXPECT_EQ(architecture_of_model_type(row.model_type), &row);
    ASSERT_NE(architecture_of_gguf(row.gguf_name), nullptr);
  }
}

TEST(Architecture, WindowsOfMistralAndPhi3AreOnEveryLayer) {
  for (const char* type : {"mistral", "phi3"}) {
    EXPECT_EQ(read(type, {{"sliding_window", 16}}).windows, (std::vector<int>{16, 16})) << type;
    EXPECT_TRUE(read(type, {{"sliding_window", nullptr}}).windows.empty()) << type;
  }
  EXPECT_EQ(read("mistral").windows, (std::vector<int>{4096, 4096}));  // what its silence means
  EXPECT_TRUE(read("phi3").windows.empty());
}

TEST(Architecture, WindowsOfQwenAreOnUpperLayersWhereTheyAreUsed) {
  EXPECT_TRUE(read("qwen2", {{"sliding_window", 16}, {"max_window_layers", 1}}).windows.empty());
  const json used = {{"sliding_window", 16}, {"max_window_layers", 1}, {"use_sliding_window", true}};
  EXPECT_EQ(read("qwen2", used).windows, (std::vector<int>{0, 16}));
  json listed = used;
  listed["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_EQ(read("qwen3", listed).windows, (std::vector<int>{16, 0}));
  listed["layer_types"] = {"sliding_attention", "linear_attention"};
  EXPECT_NE(error_of("qwen3", listed).find("layer_types' has \"linear_attention\" for layer 1; supported"),
            std::string::npos)
      << error_of("qwen3", listed);
  listed["layer_types"] = {"sliding_attention"};
  EXPECT_NE(error_of("qwen3", listed).find("'layer_types' must be an array of 2 names"), std::string::npos);
}

TEST(Architecture, TraitsOfQwen) {
  const ModelConfig qwen2 = read("qwen2");
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.output_bias);
  EXPECT_FALSE(qwen2.qk_norm);
  const ModelConfig qwen3 = read("qwen3", {{"head_dim", nullptr}});
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_EQ(qwen3.head_dim, 4);  // null: hidden / heads
}

TEST(Architecture, TraitsOfGemma3) {
  const json own = {
      {"sliding_window", 8}, {"query_pre_attn_scalar", 16}, {"num_hidden_layers", 7}, {"head_dim", 4}};
  const ModelConfig gemma = read("gemma3_text", own);
  EXPECT_EQ(gemma.activation, Activation::kGeluTanh);
  EXPECT_TRUE(gemma.qk_norm && gemma.output_norms && gemma.has_window_rope);
  EXPECT_FLOAT_EQ(gemma.embedding_scale, std::sqrt(8.0f));
  EXPECT_FLOAT_EQ(gemma.query_scale, 0.5f);  // sqrt(4 / 16)
  EXPECT_EQ(gemma.windows, (std::vector<int>{8, 8, 8, 8, 8, 0, 8}));
  EXPECT_EQ(gemma.window_rope.base, 10000.0);
  EXPECT_EQ(gemma.windows_within(100), gemma.windows);
  EXPECT_TRUE(gemma.windows_within(8).empty());
  json scaled = own;
  scaled["rope_parameters"] = {
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 1000000.0}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 5000.0}}}};
  scaled["rope_theta"] = nullptr;
  const ModelConfig larger = read("gemma3_text", scaled);
  EXPECT_EQ(larger.rope.base, 1000000.0);
  EXPECT_EQ(larger.rope.factor, 8.0);
  EXPECT_EQ(larger.window_rope.base, 5000.0);
  EXPECT_EQ(larger.window_rope.type, RopeScalingType::kNone);
  EXPECT_NE(error_of("gemma3_text", {{"hidden_act", nullptr}, {"final_logit_softcapping", 30.0}})
                .find("'final_logit_softcapping' is set"),
            std::string::npos);
}

TEST(Architecture, TheTextPartOfGemma3WithPicturesRelysOnDefaults) {
  const json config = {{"model_type", "gemma3"},
                       {"architectures", {"Gemma3ForConditionalGeneration"}},
                       {"text_config", {{"num_hidden_layers", 34}, {"hidden_size", 2560}}}};
  const Result<HfConfig> result = read_hf_config(config, "config.json");
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_TRUE(result->text_part);
  EXPECT_EQ(result->model.num_heads, 8);
  EXPECT_EQ(result->model.head_dim, 256);
  EXPECT_EQ(result->model.vocab_size, 262208);
  EXPECT_TRUE(result->model.tied_embeddings);
  EXPECT_EQ(result->model.windows_within(131072)[0], 4096);
}

TEST(Architecture, PhiRotatesAPartByItsLengths) {
  const json phi = {
      {"head_dim", 8},
      {"partial_rotary_factor", 0.5},
      {"max_position_embeddings", 4096},
      {"original_max_position_embeddings", 1024},
      {"rope_scaling", {{"type", "longrope"}, {"short_factor", {1.0, 1.5}}, {"long_factor", {2.0, 4.0}}}}};
  const ModelConfig model = read("phi3", phi);
  EXPECT_EQ(model.rope.type, RopeScalingType::kLongRope);
  EXPECT_EQ(model.rope.rotary_dim, 4);
  EXPECT_EQ(model.rope.original_max_position, 1024);
  EXPECT_EQ(model.rope.factor, 4.0);
  EXPECT_FALSE(model.rope.wants_long_positions(1024));
  EXPECT_TRUE(model.rope.wants_long_positions(1025));
  json odd = phi;
  odd["rope_scaling"]["long_factor"] = {2.0};
  EXPECT_NE(error_of("phi3", odd).find("'long_factor' must be an array of 2 numbers"), std::string::npos);
}

TEST(Architecture, DynamicScalingReachesAsFarAsItsFactorSays) {
  const ModelConfig model = read("llama", {{"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 4.0}}}});
  EXPECT_EQ(model.rope.type, RopeScalingType::kDynamic);
  EXPECT_EQ(model.rope.original_max_position, 128);
  EXPECT_EQ(model.max_context_tokens, 512);
}

}  // namespace
}  // namespace kvcrush
