// The model that the project's setup fetches. Its absence is a failure: nothing else shows that real files
// load.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "engine/loader/gguf.h"
#include "engine/loader/mapped_file.h"
#include "engine/loader/model_file.h"
#include "tests/unit/loader/builders.h"

namespace kvcrush {
namespace {

constexpr const char* kPath = ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf";

TEST(RealModel, ReleasedPagesComeBackWhenTheyAreRead) {
  const Result<ModelFile> model = load_model_file(kPath);
  ASSERT_TRUE(model.ok()) << model.status().message();
  const WeightView& norm = model->weights.at("norm");
  const WeightView& embedding = model->weights.at("embed_tokens");
  const std::vector<std::byte> norm_before(norm.bytes.begin(), norm.bytes.end());
  const std::vector<std::byte> rows_before(embedding.bytes.begin(), embedding.bytes.begin() + 10'000);
  ASSERT_TRUE(model->release_pages);
  model->release_pages();
  EXPECT_TRUE(std::equal(norm_before.begin(), norm_before.end(), norm.bytes.begin()));
  EXPECT_TRUE(std::equal(rows_before.begin(), rows_before.end(), embedding.bytes.begin()));
}

TEST(RealModel, ConfigurationTokenizerAndWeights) {
  const Result<ModelFile> model = load_model_file(kPath);
  ASSERT_TRUE(model.ok()) << model.status().message();
  const ModelConfig& config = model->config;
  EXPECT_EQ(config.num_layers, 30);
  EXPECT_EQ(config.hidden_size, 576);
  EXPECT_EQ(config.intermediate_size, 1536);
  EXPECT_EQ(config.num_heads, 9);
  EXPECT_EQ(config.num_kv_heads, 3);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.vocab_size, 49152);
  EXPECT_EQ(config.max_context_tokens, 8192);
  EXPECT_EQ(config.rms_norm_eps, 1e-5f);
  EXPECT_EQ(config.rope.base, 100000.0);
  EXPECT_EQ(config.rope.type, RopeScalingType::kNone);
  EXPECT_TRUE(config.tied_embeddings);

  const TokenizerSpec& spec = model->tokenizer;
  EXPECT_EQ(spec.pre_tokenizer, "smollm");
  EXPECT_EQ(spec.tokens.size(), 49152u);
  EXPECT_EQ(spec.merges.size(), 48900u);
  EXPECT_EQ(spec.tokens[2], "<|im_end|>");
  EXPECT_EQ(std::count(spec.kinds.begin(), spec.kinds.end(), TokenKind::kControl), 17);
  EXPECT_EQ(spec.bos_id, 1);
  EXPECT_EQ(spec.eos_id, 2);
  EXPECT_FALSE(spec.add_bos);
  EXPECT_EQ(spec.stop_ids, (std::vector<TokenId>{2, 0}));
  EXPECT_NE(spec.chat_template.find("<|im_start|>"), std::string::npos);

  EXPECT_EQ(model->weights.size(), 272u);
  EXPECT_EQ(model->num_parameters, 134515008u);
  EXPECT_EQ(model->weight_dtype, "Q4_1");
  EXPECT_EQ(model->weights.at("embed_tokens").dtype, WeightDtype::kQ8_0);
  EXPECT_EQ(model->weights.at("layers.29.q_proj").head_rows.head_dim, 64);
  const WeightView& norm = model->weights.at("norm");
  std::vector<float> values(static_cast<std::size_t>(norm.num_elements()));
  read_f32(norm, values);
  EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }));
}

// Prefixes of the header, which ends where the tensor data begins.
TEST(RealModel, TruncatedHeadersAreRefused) {
  Result<MappedFile> file = MappedFile::open(kPath);
  ASSERT_TRUE(file.ok()) << file.status().message();
  Result<GgufFile> whole = parse_gguf(file->bytes(), kPath);
  ASSERT_TRUE(whole.ok()) << whole.status().message();
  const std::byte* first = file->bytes().data() + file->bytes().size();
  for (const GgufTensor& tensor : whole->tensors) first = std::min(first, tensor.view.bytes.data());
  const auto header_bytes = static_cast<std::size_t>(first - file->bytes().data());
  std::mt19937 random(11);
  for (int i = 0; i < 500; ++i) {
    const auto prefix = file->bytes().first(random() % header_bytes);
    const testing::Bytes copy(prefix.begin(), prefix.end());
    const Result<GgufFile> cut = parse_gguf(testing::view(copy), kPath);
    ASSERT_EQ(cut.status().code(), StatusCode::kInvalidArgument) << prefix.size();
  }
}

}  // namespace
}  // namespace kvcrush
