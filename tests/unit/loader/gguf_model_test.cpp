#include "engine/loader/gguf_model.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "tests/unit/loader/builders.h"

namespace kvcrush {
namespace {

using testing::Bytes;
using testing::f32_bytes;
using testing::GgufBuilder;
using testing::small_gguf;

using Change = std::function<void(GgufBuilder&)>;

// The builder's bytes must outlive the model's views.
struct Loaded {
  Bytes bytes;
  Result<ModelFile> model;
};

Loaded load(const Change& change, bool tied = true) {
  GgufBuilder builder = small_gguf(tied);
  change(builder);
  Bytes bytes = builder.build();
  Result<ModelFile> model = read_gguf_model(testing::view(bytes), "test.gguf");
  return {std::move(bytes), std::move(model)};
}

void expect_error(const Change& change, const std::string& part) {
  const Loaded loaded = load(change);
  ASSERT_FALSE(loaded.model.ok()) << "expected: " << part;
  EXPECT_EQ(loaded.model.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(loaded.model.status().message().find(part), std::string::npos) << loaded.model.status().message();
  EXPECT_EQ(loaded.model.status().message().find("test.gguf: "), 0u);
}

Change set_u32(const std::string& key, std::uint32_t value) {
  return [=](GgufBuilder& builder) {
    builder.remove(key);
    builder.u32(key, value);
  };
}

Change set_text(const std::string& key, const std::string& value) {
  return [=](GgufBuilder& builder) {
    builder.remove(key);
    builder.text(key, value);
  };
}

TEST(GgufModel, ReadsConfiguration) {
  const Loaded loaded = load([](GgufBuilder&) {});
  ASSERT_TRUE(loaded.model.ok()) << loaded.model.status().message();
  const ModelConfig& config = loaded.model->config;
  EXPECT_EQ(config.name, "Small");
  EXPECT_EQ(config.architecture, "llama");
  EXPECT_EQ(config.num_layers, 2);
  EXPECT_EQ(config.hidden_size, 8);
  EXPECT_EQ(config.intermediate_size, 12);
  EXPECT_EQ(config.num_heads, 2);
  EXPECT_EQ(config.num_kv_heads, 1);
  EXPECT_EQ(config.head_dim, 4);
  EXPECT_EQ(config.vocab_size, 6);
  EXPECT_EQ(config.max_context_tokens, 128);
  EXPECT_EQ(config.rms_norm_eps, 1e-5f);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.rope.base, 10000.0);
  EXPECT_EQ(config.rope.type, RopeScalingType::kNone);
}

TEST(GgufModel, ReadsTokenizer) {
  const Loaded loaded = load([](GgufBuilder& builder) {
    builder.u32("tokenizer.ggml.bos_token_id", 3);
    builder.u32("tokenizer.ggml.eot_token_id", 2);
    builder.flag("tokenizer.ggml.add_bos_token", true);
    builder.text("tokenizer.chat_template", "{{ messages }}");
  });
  ASSERT_TRUE(loaded.model.ok()) << loaded.model.status().message();
  const TokenizerSpec& spec = loaded.model->tokenizer;
  EXPECT_EQ(spec.model, "gpt2");
  EXPECT_EQ(spec.pre_tokenizer, "smollm");
  EXPECT_EQ(spec.tokens.size(), 6u);
  EXPECT_EQ(spec.tokens[2], "ab");
  EXPECT_EQ(spec.kinds[2], TokenKind::kNormal);
  EXPECT_EQ(spec.kinds[3], TokenKind::kControl);
  EXPECT_EQ(spec.kinds[5], TokenKind::kUserDefined);
  EXPECT_EQ(spec.merges, std::vector<std::string>{"a b"});
  EXPECT_EQ(spec.bos_id, 3);
  EXPECT_EQ(spec.eos_id, 4);
  EXPECT_EQ(spec.unknown_id, -1);
  EXPECT_TRUE(spec.add_bos);
  EXPECT_EQ(spec.chat_template, "{{ messages }}");
  // eos <|im_end|>, the declared eot, and <|endoftext|> by its spelling.
  EXPECT_EQ(spec.stop_ids, (std::vector<TokenId>{4, 2, 3}));
}

TEST(GgufModel, MapsWeightsToCanonicalNames) {
  const Loaded tied = load([](GgufBuilder&) {});
  ASSERT_TRUE(tied.model.ok());
  EXPECT_EQ(tied.model->weights.size(), 20u);
  EXPECT_FALSE(tied.model->weights.contains("lm_head"));
  EXPECT_EQ(tied.model->weights.at("layers.1.q_proj").head_rows.head_dim, 4);
  EXPECT_EQ(tied.model->weights.at("layers.1.k_proj").head_rows.head_dim, 4);
  EXPECT_EQ(tied.model->weights.at("layers.1.v_proj").head_rows.head_dim, 0);
  EXPECT_EQ(tied.model->weights.at("layers.0.down_proj").shape, (std::vector<std::int64_t>{8, 12}));
  const std::uint64_t per_layer = 8 + 64 + 32 + 32 + 64 + 8 + 96 * 3;
  EXPECT_EQ(tied.model->num_parameters, 48 + 2 * per_layer + 8);
  EXPECT_EQ(tied.model->weight_bytes, 4 * tied.model->num_parameters);
  EXPECT_EQ(tied.model->weight_dtype, "F32");
  std::vector<float> values(64);
  read_f32(tied.model->weights.at("layers.0.q_proj"), values);  // tensor 2; model row 1 is stored as row 2
  EXPECT_EQ(values[0], 2.0f);
  EXPECT_FLOAT_EQ(values[8], 2.016f);

  const Loaded untied = load([](GgufBuilder&) {}, false);
  ASSERT_TRUE(untied.model.ok());
  EXPECT_FALSE(untied.model->config.tied_embeddings);
  EXPECT_EQ(untied.model->weights.at("lm_head").shape, (std::vector<std::int64_t>{6, 8}));
}

TEST(GgufModel, TakesAttentionBiasesOfAllLayersOrNone) {
  const auto add_biases = [](GgufBuilder& builder, int num_layers) {
    for (int layer = 0; layer < num_layers; ++layer) {
      const std::string prefix = "blk." + std::to_string(layer) + ".";
      builder.tensor(prefix + "attn_q.bias", {8}, 0, f32_bytes(std::vector<float>(8)));
      builder.tensor(prefix + "attn_k.bias", {4}, 0, f32_bytes(std::vector<float>(4)));
      builder.tensor(prefix + "attn_v.bias", {4}, 0, f32_bytes(std::vector<float>(4)));
    }
  };
  const Loaded loaded = load([&](GgufBuilder& builder) { add_biases(builder, 2); });
  ASSERT_TRUE(loaded.model.ok()) << loaded.model.status().message();
  EXPECT_EQ(loaded.model->weights.at("layers.1.q_bias").head_rows.head_dim, 4);
  EXPECT_EQ(loaded.model->weights.at("layers.1.v_bias").head_rows.head_dim, 0);
  expect_error([&](GgufBuilder& builder) { add_biases(builder, 1); },
               "tensor 'blk.1.attn_k.bias' is missing, and 2 more");
}

TEST(GgufModel, ReadsRopeScaling) {
  const Loaded linear = load([](GgufBuilder& builder) {
    builder.text("llama.rope.scaling.type", "linear");
    builder.f32("llama.rope.scaling.factor", 4.0f);
  });
  ASSERT_TRUE(linear.model.ok()) << linear.model.status().message();
  EXPECT_EQ(linear.model->config.rope.type, RopeScalingType::kLinear);
  EXPECT_EQ(linear.model->config.rope.factor, 4.0);

  const Loaded yarn = load([](GgufBuilder& builder) {
    builder.text("llama.rope.scaling.type", "yarn");
    builder.f32("llama.rope.scaling.factor", 2.0f);
    builder.u32("llama.rope.scaling.original_context_length", 64);
    builder.f32("llama.rope.freq_base", 500000.0f);
  });
  ASSERT_TRUE(yarn.model.ok()) << yarn.model.status().message();
  EXPECT_EQ(yarn.model->config.rope.type, RopeScalingType::kYarn);
  EXPECT_EQ(yarn.model->config.rope.original_max_position, 64);
  EXPECT_EQ(yarn.model->config.rope.base, 500000.0);

  const Loaded divided = load([](GgufBuilder& builder) {
    builder.tensor("rope_freqs.weight", {2}, 0, f32_bytes({1.0f, 8.0f}));
  });
  ASSERT_TRUE(divided.model.ok()) << divided.model.status().message();
  EXPECT_EQ(divided.model->config.rope.frequency_divisors, (std::vector<float>{1.0f, 8.0f}));

  expect_error(set_text("llama.rope.scaling.type", "ntk"), "'ntk'; supported: none, linear, yarn, longrope");
  expect_error(set_text("llama.rope.scaling.type", "linear"), "'llama.rope.scaling.factor' is missing");
  expect_error(set_u32("llama.rope.dimension_count", 3), "3 channels of a head are rotated");
  expect_error(
      [](GgufBuilder& builder) {
        builder.tensor("rope_freqs.weight", {3}, 0, f32_bytes({1, 1, 1}));
      },
      "3 rope frequency divisors");
  expect_error(
      [](GgufBuilder& builder) {
        builder.tensor("rope_freqs.weight", {2}, 0, f32_bytes({1, 0}));
      },
      "rope frequency divisor is 0");
}

TEST(GgufModel, RefusesBadConfiguration) {
  // The architecture is what is reported, though the tensors' types are unknown too.
  expect_error(
      [](GgufBuilder& builder) {
        set_text("general.architecture", "falcon")(builder);
        builder.tensor("odd", {256}, 14, Bytes(210));
      },
      "architecture is 'falcon'; supported: llama, smollm3, qwen2, qwen3, gemma3, phi3");
  expect_error([](GgufBuilder& builder) { builder.remove("general.architecture"); }, "general.architecture");
  expect_error([](GgufBuilder& builder) { builder.remove("llama.block_count"); },
               "'llama.block_count' is missing");
  expect_error(set_u32("llama.block_count", 0), "'llama.block_count' is 0; allowed: 1 to 1024");
  expect_error(set_u32("llama.block_count", 4000000000u), "'llama.block_count' is 4000000000");
  expect_error(set_text("llama.block_count", "2"), "'llama.block_count' is not an integer");
  expect_error(set_u32("llama.attention.head_count_kv", 3), "number of heads 2 is not a multiple");
  expect_error(set_u32("llama.attention.key_length", 5), "head_dim is 5; it must be even");
  expect_error(set_u32("llama.attention.value_length", 2), "'llama.attention.value_length' is 2");
  expect_error(set_u32("llama.expert_count", 8), "mixtures of experts");
  expect_error(set_u32("llama.vocab_size", 5),
               "'tokenizer.ggml.tokens' has 6 entries; the vocabulary size is 5");
  expect_error(
      [](GgufBuilder& builder) {
        builder.remove("llama.attention.layer_norm_rms_epsilon");
        builder.f32("llama.attention.layer_norm_rms_epsilon", std::numeric_limits<float>::quiet_NaN());
      },
      "'llama.attention.layer_norm_rms_epsilon' is");
}

TEST(GgufModel, RefusesBadTokenizer) {
  expect_error(set_text("tokenizer.ggml.model", "bert"),
               "'tokenizer.ggml.model' is 'bert'; supported: gpt2, llama, t5");
  expect_error(set_u32("tokenizer.ggml.eos_token_id", 6),
               "'tokenizer.ggml.eos_token_id' is 6; allowed: 0 to 5");
  expect_error(set_u32("tokenizer.ggml.tokens", 6), "'tokenizer.ggml.tokens' is not an array of strings");
  expect_error([](GgufBuilder& builder) { builder.flag("tokenizer.ggml.add_bos_token", true); },
               "add_bos_token");
  expect_error(
      [](GgufBuilder& builder) {
        builder.remove("tokenizer.ggml.token_type");
        builder.i32s("tokenizer.ggml.token_type", {1, 1, 1});
      },
      "'tokenizer.ggml.token_type' has 3 entries; there are 6 tokens");
  expect_error(
      [](GgufBuilder& builder) {
        builder.remove("tokenizer.ggml.token_type");
        builder.i32s("tokenizer.ggml.token_type", {1, 1, 1, 3, 3, 9});
      },
      "holds 9; known: 1 to 6");
  expect_error(
      [](GgufBuilder& builder) {
        builder.remove("tokenizer.ggml.merges");
        builder.texts("tokenizer.ggml.merges", {"a b", "ab"});
      },
      "holds 'ab'; two tokens are expected");
}

TEST(GgufModel, RefusesUnsupportedTypesByName) {
  expect_error([](GgufBuilder& b) { b.tensor("odd", {256}, 16, Bytes(66)); },
               "tensor 'odd' has type IQ2_XXS; supported: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0");
  expect_error([](GgufBuilder& b) { b.tensor("odd", {256}, 77, Bytes(210)); },
               "tensor 'odd' has type number 77; supported: F32");
}

TEST(GgufModel, RefusesMissingUnknownAndMisshapenTensors) {
  expect_error([](GgufBuilder& builder) { builder.remove_tensor("blk.1.attn_v.weight"); },
               "tensor 'blk.1.attn_v.weight' is missing");
  expect_error([](GgufBuilder& builder) { builder.tensor("blk.0.surprise", {1}, 0, Bytes(4)); },
               "tensor 'blk.0.surprise' is not part of a llama model with 2 layers");
  expect_error([](GgufBuilder& builder) { builder.tensor("blk.2.attn_norm.weight", {8}, 0, Bytes(32)); },
               "tensor 'blk.2.attn_norm.weight' is not part of");
  expect_error(
      [](GgufBuilder& builder) {
        builder.remove_tensor("blk.1.ffn_up.weight");
        builder.tensor("blk.1.ffn_up.weight", {8, 12}, 0, Bytes(384));
      },
      "tensor 'blk.1.ffn_up.weight' has shape [8, 12]; the configuration demands [12, 8]");
  // The vocabulary has 6 tokens.
  expect_error(
      [](GgufBuilder& builder) {
        builder.remove_tensor("token_embd.weight");
        builder.tensor("token_embd.weight", {7, 8}, 0, Bytes(224));
      },
      "tensor 'token_embd.weight' has shape [7, 8]; the configuration demands [6, 8]");
  expect_error(set_u32("llama.vocab_size", 7),
               "tensor 'token_embd.weight' has shape [6, 8]; the configuration demands [7, 8]");
}

}  // namespace
}  // namespace kvcrush
