#include <gtest/gtest.h>

#include <functional>

#include "engine/loader/hf_config.h"
#include "engine/loader/model_file.h"
#include "tests/unit/loader/builders.h"

namespace kvcrush {
namespace {

using nlohmann::json;
using testing::small_config;
using testing::TemporaryDirectory;

HfConfig read(const json& changes) {
  json config = small_config();
  config.update(changes);
  Result<HfConfig> result = read_hf_config(config, "config.json");
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? *result : HfConfig{};
}

void expect_config_error(const json& changes, const std::string& part) {
  json config = small_config();
  config.update(changes);
  const Result<HfConfig> result = read_hf_config(config, "config.json");
  ASSERT_FALSE(result.ok()) << "expected: " << part;
  EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(result.status().message().find(part), std::string::npos) << result.status().message();
}

TEST(HfConfig, ReadsNumbersAndDefaults) {
  const ModelConfig config = read({{"head_dim", nullptr}}).model;
  EXPECT_EQ(config.num_layers, 2);
  EXPECT_EQ(config.hidden_size, 8);
  EXPECT_EQ(config.intermediate_size, 12);
  EXPECT_EQ(config.num_heads, 2);
  EXPECT_EQ(config.num_kv_heads, 1);
  EXPECT_EQ(config.head_dim, 4);  // hidden / heads
  EXPECT_EQ(config.vocab_size, 6);
  EXPECT_EQ(config.max_context_tokens, 128);
  EXPECT_EQ(config.rms_norm_eps, 1e-5f);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(read({{"head_dim", 6}}).model.head_dim, 6);
  EXPECT_EQ(read({{"num_key_value_heads", nullptr}}).model.num_kv_heads, 2);
  EXPECT_TRUE(read({{"attention_bias", true}}).model.qkv_bias);
  EXPECT_TRUE(read({{"attention_bias", true}}).model.output_bias);
}

TEST(HfConfig, ReadsRopeScaling) {
  EXPECT_EQ(read({{"rope_scaling", nullptr}}).model.rope.type, RopeScalingType::kNone);
  const RopeConfig linear = read({{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}).model.rope;
  EXPECT_EQ(linear.type, RopeScalingType::kLinear);
  EXPECT_EQ(linear.factor, 2.0);

  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 32.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  const RopeConfig scaled = read({{"rope_scaling", llama3}, {"rope_theta", 500000.0}}).model.rope;
  EXPECT_EQ(scaled.type, RopeScalingType::kLlama3);
  EXPECT_EQ(scaled.base, 500000.0);
  EXPECT_EQ(scaled.factor, 32.0);
  EXPECT_EQ(scaled.original_max_position, 8192);

  const json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"attention_factor", 1.25}};
  const RopeConfig stretched = read({{"rope_scaling", yarn}}).model.rope;
  EXPECT_EQ(stretched.type, RopeScalingType::kYarn);
  EXPECT_EQ(stretched.original_max_position, 128);
  EXPECT_EQ(stretched.attention_factor, 1.25);

  const json parameters = {{"rope_type", "default"}, {"rope_theta", 250000.0}};
  EXPECT_EQ(read({{"rope_parameters", parameters}, {"rope_theta", nullptr}}).model.rope.base, 250000.0);
}

TEST(HfConfig, RefusesWhatIsNotSupported) {
  expect_config_error(
      {{"model_type", "falcon"}},
      "'model_type' is 'falcon'; supported: llama, smollm3, mistral, qwen2, qwen3, gemma3_text, phi3");
  expect_config_error({{"architectures", {"LlamaForSequenceClassification"}}}, "LlamaForCausalLM");
  expect_config_error({{"hidden_act", "gelu"}}, "'hidden_act' is 'gelu'; supported: silu");
  expect_config_error({{"mlp_bias", true}}, "'mlp_bias'");
  expect_config_error({{"quantization_config", json::object()}}, "'quantization_config'");
  expect_config_error({{"rope_scaling", {{"rope_type", "mrope"}}}}, "rope type is 'mrope'");
  expect_config_error({{"rope_scaling", {{"rope_type", "longrope"}}}},
                      "field 'short_factor' must be an array of 2 numbers");
  expect_config_error({{"rope_scaling", 3}}, "rope_scaling: a JSON object is expected");
  expect_config_error({{"rope_scaling", {{"rope_type", "linear"}}}}, "field 'factor' is missing");
}

TEST(HfConfig, RefusesBadNumbers) {
  expect_config_error({{"hidden_size", nullptr}}, "field 'hidden_size' is missing");
  expect_config_error({{"hidden_size", "8"}},
                      "field 'hidden_size' is \"8\"; allowed: integers from 1 to 131072");
  expect_config_error({{"hidden_size", -8}}, "field 'hidden_size' is -8");
  expect_config_error({{"vocab_size", 18446744073709551615u}}, "field 'vocab_size' is 18446744073709551615");
  expect_config_error({{"num_key_value_heads", 3}}, "number of heads 2 is not a multiple");
  expect_config_error({{"head_dim", 3}}, "head_dim is 3; it must be even");
  expect_config_error({{"rope_theta", 0}}, "field 'rope_theta' is 0");
}

void expect_load_error(const TemporaryDirectory& directory, const std::string& part) {
  const Result<ModelFile> model = load_model_file(directory.path());
  ASSERT_FALSE(model.ok()) << "expected: " << part;
  EXPECT_EQ(model.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(model.status().message().find(part), std::string::npos) << model.status().message();
}

TEST(HfModel, LoadsADirectory) {
  const TemporaryDirectory directory;
  directory.write_small_model();
  for (const std::string& path : {directory.path(), directory.path() + "/"}) {
    const Result<ModelFile> model = load_model_file(path);
    ASSERT_TRUE(model.ok()) << model.status().message();
    EXPECT_EQ(model->config.name.find("kvcrush_loader_test_"), 0u);
    EXPECT_EQ(model->weights.size(), 20u);
    EXPECT_EQ(model->weights.at("layers.1.q_proj").head_rows.head_dim, 0);
    EXPECT_EQ(model->tokenizer.eos_id, 4);
    std::vector<float> values(64);
    read_f32(model->weights.at("layers.0.q_proj"), values);  // tensor 2, in its own order
    EXPECT_FLOAT_EQ(values[8], 2.008f);
  }
}

TEST(HfModel, UntiedModelsNeedTheirHead) {
  const TemporaryDirectory directory;
  directory.write_small_model(false);
  const Result<ModelFile> model = load_model_file(directory.path());
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_TRUE(model->weights.contains("lm_head"));
  directory.write("model.safetensors", testing::safetensors_bytes(testing::small_hf_tensors(true)));
  expect_load_error(directory, "tensor 'lm_head.weight' is missing");
}

TEST(HfModel, IgnoresOnlyKnownExtraTensors) {
  const TemporaryDirectory directory;
  directory.write_small_model();
  std::vector<testing::HfTensor> tensors =
      testing::small_hf_tensors(false);  // a head that the tied model drops
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {2}, testing::f32_bytes({1, 1})});
  directory.write("model.safetensors", testing::safetensors_bytes(tensors));
  const Result<ModelFile> model = load_model_file(directory.path());
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ(model->weights.size(), 20u);
  tensors.push_back({"model.layers.0.self_attn.o_proj.bias", "F32", {1}, testing::f32_bytes({1})});
  directory.write("model.safetensors", testing::safetensors_bytes(tensors));
  expect_load_error(directory, "tensor 'model.layers.0.self_attn.o_proj.bias' is not part of");
}

TEST(HfModel, NamesTheShardOfAMisshapenTensor) {
  const TemporaryDirectory directory;
  directory.write_small_model();
  std::filesystem::remove(directory.file("model.safetensors"));
  std::vector<testing::HfTensor> tensors = testing::small_hf_tensors();
  tensors[0] = {"model.embed_tokens.weight", "F32", {7, 8}, testing::f32_bytes(std::vector<float>(56))};
  nlohmann::json index = {{"weight_map", nlohmann::json::object()}};
  const auto write = [&](const char* name, std::size_t begin, std::size_t end) {
    const std::vector<testing::HfTensor> part(tensors.begin() + static_cast<std::ptrdiff_t>(begin),
                                              tensors.begin() + static_cast<std::ptrdiff_t>(end));
    for (const testing::HfTensor& tensor : part) index["weight_map"][tensor.name] = name;
    directory.write(name, testing::safetensors_bytes(part));
  };
  write("a.safetensors", 3, tensors.size());
  write("b.safetensors", 0, 3);
  directory.write("model.safetensors.index.json", index.dump());
  expect_load_error(directory, directory.file("b.safetensors") +
                                   ": tensor 'model.embed_tokens.weight' has shape [7, 8]; the configuration "
                                   "demands [6, 8]");
  std::filesystem::resize_file(directory.file("a.safetensors"),
                               std::filesystem::file_size(directory.file("a.safetensors")) - 4);
  expect_load_error(directory, directory.file("a.safetensors") + ": tensor '");
  std::filesystem::remove(directory.file("a.safetensors"));
  std::filesystem::create_symlink("a.safetensors", directory.file("a.safetensors"));
  expect_load_error(
      directory, directory.file("a.safetensors") + ": cannot be opened: Too many levels of symbolic links");
}

TEST(HfModel, NamesTheFileThatIsMissingOrBroken) {
  const TemporaryDirectory directory;
  directory.write("config.json", "{");
  expect_load_error(directory, "config.json: is not valid JSON");
  directory.write("config.json", small_config().dump());
  expect_load_error(directory, "neither tokenizer.json nor tokenizer.model is there");
  directory.write("tokenizer.json", testing::small_tokenizer().dump());
  expect_load_error(directory, "has neither model.safetensors");
}

TEST(ModelFile, PathsThatAreNoModel) {
  const TemporaryDirectory directory;
  EXPECT_EQ(load_model_file(directory.file("absent.gguf")).status().code(), StatusCode::kNotFound);
  const auto message = [](const std::string& path) { return load_model_file(path).status().message(); };
  EXPECT_NE(
      message(directory.write("empty.gguf", std::string())).find("expected 4 bytes of the magic 'GGUF'"),
      std::string::npos);
  EXPECT_NE(message(directory.write("note.txt", std::string("hello there"))).find("not a GGUF file"),
            std::string::npos);
  EXPECT_NE(message(directory.write("model.safetensors", std::string("x"))).find("name the directory"),
            std::string::npos);
  EXPECT_NE(message("/dev/null").find("is not a regular file"), std::string::npos);
}

TEST(ModelFile, KeepsTheBytesAliveAfterTheFileIsGone) {
  Result<ModelFile> model = internal_error("not loaded yet");
  {
    const TemporaryDirectory directory;
    model = load_model_file(directory.write("small.gguf", testing::small_gguf().build()));
  }
  ASSERT_TRUE(model.ok()) << model.status().message();
  const ModelFile moved = std::move(*model);
  std::vector<float> values(8);
  read_f32(moved.weights.at("norm"), values);
  EXPECT_FLOAT_EQ(values[7], 19.007f);
}

}  // namespace
}  // namespace kvcrush
