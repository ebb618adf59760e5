#include "engine/loader/model_reading.h"

#include <gtest/gtest.h>

#include "engine/loader/weight_memory.h"
#include "tests/unit/loader/builders.h"

namespace kvcrush {
namespace {

using nlohmann::json;
using testing::Bytes;
using testing::TemporaryDirectory;

bool mentions(const ModelReading& reading, const std::string& text) {
  for (const Status& problem : reading.problems)
    if (problem.message().find(text) != std::string::npos) return true;
  return false;
}

TEST(ModelReading, AWholeModelHasNoProblems) {
  const TemporaryDirectory directory;
  const ModelReading reading = read_model(directory.write("small.gguf", testing::small_gguf().build()));
  EXPECT_TRUE(reading.problems.empty());
  EXPECT_EQ(reading.format, "GGUF");
  ASSERT_EQ(reading.types.size(), 1u);
  EXPECT_EQ(reading.types[0].type, "F32");
  EXPECT_TRUE(reading.types[0].supported);
  EXPECT_EQ(reading.types[0].num_tensors, 20);
  EXPECT_EQ(reading.types[0].num_elements, reading.model.num_parameters);
  EXPECT_EQ(reading.types[0].num_bytes, reading.model.weight_bytes);
  const TemporaryDirectory folder;
  folder.write_small_model();
  const ModelReading hugging_face = read_model(folder.path());
  EXPECT_TRUE(hugging_face.problems.empty());
  EXPECT_EQ(hugging_face.format, "Hugging Face");
  EXPECT_EQ(hugging_face.types[0].num_tensors, 20);
}

TEST(ModelReading, AllProblemsOfAGgufFile) {
  testing::GgufBuilder builder = testing::small_gguf();
  builder.remove("tokenizer.ggml.model");
  builder.text("tokenizer.ggml.model", "invented");
  builder.tensor("odd", {2, 256}, 16, Bytes(132));
  builder.tensor("odder", {256}, 16, Bytes(66));
  builder.tensor("newer", {256}, 77, Bytes(210));
  const TemporaryDirectory directory;
  const ModelReading reading = read_model(directory.write("bad.gguf", builder.build()));
  EXPECT_EQ(reading.problems.size(), 3u);
  EXPECT_TRUE(mentions(reading, "tensor 'odd' has type IQ2_XXS; supported: F32"));
  EXPECT_TRUE(mentions(reading, "(1 more have it)"));
  EXPECT_TRUE(mentions(reading, "tensor 'newer' has type number 77"));
  EXPECT_TRUE(mentions(reading, "'tokenizer.ggml.model' is 'invented'"));
  ASSERT_EQ(reading.types.size(), 3u);
  EXPECT_EQ(reading.types[1].type, "IQ2_XXS");
  EXPECT_FALSE(reading.types[1].supported);
  EXPECT_EQ(reading.types[1].num_tensors, 2);
  EXPECT_EQ(reading.types[1].num_elements, 768u);
  EXPECT_EQ(reading.model.config.num_layers, 2);
}

TEST(ModelReading, WhatAnUnknownArchitectureSays) {
  testing::GgufBuilder builder = testing::small_gguf();
  builder.remove("general.architecture");
  builder.text("general.architecture", "mamba9");
  builder.u32("mamba9.block_count", 48);
  builder.u32("mamba9.embedding_length", 64);
  builder.u32("mamba9.attention.head_count", 4);
  builder.u32("mamba9.context_length", 4'000'000'000);  // nonsense is left out
  const TemporaryDirectory directory;
  const ModelReading reading = read_model(directory.write("mamba.gguf", builder.build()));
  ASSERT_EQ(reading.problems.size(), 1u);
  EXPECT_TRUE(mentions(reading, "architecture is 'mamba9'; supported: "));
  const ModelConfig& config = reading.model.config;
  EXPECT_EQ(config.architecture, "mamba9");
  EXPECT_EQ(config.name, "Small");
  EXPECT_EQ(config.num_layers, 48);
  EXPECT_EQ(config.num_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.vocab_size, 6);
  EXPECT_EQ(config.max_context_tokens, 0);
  EXPECT_EQ(reading.types[0].num_tensors, 20);
}

TEST(ModelReading, AllProblemsOfAFolder) {
  const TemporaryDirectory directory;
  directory.write_small_model();
  json config = testing::small_config();
  config["model_type"] = "mamba9";
  directory.write("config.json", config.dump());
  const ModelReading unknown = read_model(directory.path());
  EXPECT_EQ(unknown.problems.size(), 1u);
  EXPECT_TRUE(mentions(unknown, "config.json: field 'model_type' is 'mamba9'"));
  EXPECT_EQ(unknown.model.config.architecture, "mamba9");
  EXPECT_EQ(unknown.model.config.num_layers, 2);
  EXPECT_EQ(unknown.types[0].num_tensors, 20);

  directory.write("config.json", testing::small_config().dump());
  directory.write("tokenizer.json", std::string("{}"));
  directory.write("model.safetensors", std::string("x"));
  const ModelReading broken = read_model(directory.path());
  EXPECT_EQ(broken.problems.size(), 2u);
  EXPECT_TRUE(mentions(broken, "tokenizer.json: "));
  EXPECT_TRUE(mentions(broken, "model.safetensors: at byte 0"));
}

TEST(ModelReading, APathThatLeadsNowhere) {
  const ModelReading reading = read_model("/nowhere/at/all");
  ASSERT_EQ(reading.problems.size(), 1u);
  EXPECT_EQ(reading.problems[0].code(), StatusCode::kNotFound);
  EXPECT_EQ(complete(read_model("/nowhere/at/all")).status().code(), StatusCode::kNotFound);
}

TEST(WeightMemory, CountsWhatIsKept) {
  const TemporaryDirectory directory;
  Result<ModelFile> floats = load_model_file(directory.write("floats.gguf", testing::small_gguf().build()));
  ASSERT_TRUE(floats.ok());
  EXPECT_EQ(kept_weight_bytes(*floats), 4 * floats->num_parameters);
  Result<ModelFile> untied =
      load_model_file(directory.write("untied.gguf", testing::small_gguf(false).build()));
  ASSERT_TRUE(untied.ok());
  EXPECT_EQ(kept_weight_bytes(*untied), 4 * (untied->num_parameters - 6 * 8));

  ModelFile packed;
  packed.config.tied_embeddings = true;
  WeightView view;
  view.shape = {20, 96};  // 2 panels of 2 groups
  view.dtype = WeightDtype::kQ8_0;
  packed.weights["embed_tokens"] = view;
  EXPECT_EQ(kept_weight_bytes(packed), 4u * (1024 + 32));
  packed.weights["embed_tokens"].dtype = WeightDtype::kQ4_0;
  EXPECT_EQ(kept_weight_bytes(packed), 4u * (512 + 96));
}

}  // namespace
}  // namespace kvcrush
