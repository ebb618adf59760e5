#include "engine/loader/gguf_tokenizer.h"

#include <gtest/gtest.h>

#include <functional>

#include "engine/tokenizer/tokenizer.h"
#include "tests/unit/loader/builders.h"

namespace kvcrush {
namespace {

using testing::append;
using testing::Bytes;
using testing::GgufBuilder;

void floats(GgufBuilder& builder, const std::string& key, const std::vector<float>& values) {
  Bytes payload;
  append<std::uint32_t>(payload, 9);
  append<std::uint32_t>(payload, 6);
  append<std::uint64_t>(payload, values.size());
  for (const float value : values) append(payload, value);
  builder.raw(key, payload);
}

// <unk>, <s>, </s>, four pieces and a marker.
GgufBuilder small_pieces() {
  GgufBuilder builder;
  builder.text("tokenizer.ggml.model", "llama");
  builder.texts("tokenizer.ggml.tokens",
                {"<unk>", "<s>", "</s>", "\u2581", "a", "\u2581a", "\u2581\u2581", "<end_of_turn>"});
  builder.i32s("tokenizer.ggml.token_type", {2, 3, 3, 1, 1, 1, 4, 4});
  floats(builder, "tokenizer.ggml.scores", {0, 0, 0, -3, -2, -1, 0, 0});
  builder.u32("tokenizer.ggml.bos_token_id", 1);
  builder.u32("tokenizer.ggml.eos_token_id", 2);
  return builder;
}

Result<TokenizerSpec> read(const std::function<void(GgufBuilder&)>& change, int vocab_size = 8) {
  GgufBuilder builder = small_pieces();
  change(builder);
  const Bytes bytes = builder.build();
  const auto file = parse_gguf(testing::view(bytes), "test.gguf");
  if (!file.ok()) return file.status();
  return read_gguf_tokenizer(*file, vocab_size, "test.gguf");
}

void expect_error(const std::function<void(GgufBuilder&)>& change, const std::string& part) {
  const auto spec = read(change);
  ASSERT_FALSE(spec.ok()) << "expected: " << part;
  EXPECT_NE(spec.status().message().find(part), std::string::npos) << spec.status().message();
}

TEST(GgufTokenizer, ReadsPieces) {
  const auto spec = read([](GgufBuilder&) {});
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->model, "llama");
  EXPECT_EQ(spec->scores, (std::vector<double>{0, 0, 0, -3, -2, -1, 0, 0}));
  EXPECT_EQ(spec->unknown_id, 0);  // found by its kind
  EXPECT_TRUE(spec->add_bos);
  EXPECT_FALSE(spec->add_eos);
  EXPECT_EQ(spec->space_prefix, SpacePrefix::kAlways);
  EXPECT_TRUE(spec->strip_first_space);
  EXPECT_EQ(spec->kinds[7], TokenKind::kControl);  // a turn's end, whatever the file calls it
  EXPECT_EQ(spec->stop_ids, (std::vector<TokenId>{2, 7}));
  const auto tokenizer = Tokenizer::create(*spec);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ(*(*tokenizer)->encode("a a<end_of_turn>"), (std::vector<TokenId>{1, 5, 5, 7}));
}

TEST(GgufTokenizer, FlagsOverrideWhatIsUsual) {
  const auto spec = read([](GgufBuilder& builder) {
    builder.flag("tokenizer.ggml.add_bos_token", false);
    builder.flag("tokenizer.ggml.add_eos_token", true);
    builder.flag("tokenizer.ggml.add_space_prefix", false);
  });
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_FALSE(spec->add_bos);
  EXPECT_TRUE(spec->add_eos);
  EXPECT_EQ(spec->space_prefix, SpacePrefix::kNone);
  EXPECT_FALSE(spec->strip_first_space);
}

TEST(GgufTokenizer, FamiliesOfByteLevelModels) {
  const auto byte_level = [](const std::string& pre) {
    return read([&](GgufBuilder& builder) {
      builder.remove("tokenizer.ggml.model");
      builder.text("tokenizer.ggml.model", "gpt2");
      builder.text("tokenizer.ggml.pre", pre);
      builder.texts("tokenizer.ggml.merges", {});
    });
  };
  EXPECT_TRUE(byte_level("llama-bpe")->add_bos);
  EXPECT_TRUE(byte_level("llama-bpe")->whole_words_first);
  EXPECT_TRUE(byte_level("tekken")->whole_words_first);
  EXPECT_FALSE(byte_level("gpt-4o")->add_bos);
  EXPECT_FALSE(byte_level("smollm")->whole_words_first);
  EXPECT_TRUE(byte_level("qwen2")->normalize_nfc);
  EXPECT_FALSE(byte_level("smollm")->normalize_nfc);
}

TEST(GgufTokenizer, RefusesWhatIsBrokenOrNotSupported) {
  const auto without = [](const char* key) { return [=](GgufBuilder& builder) { builder.remove(key); }; };
  const auto flag = [](const char* key) { return [=](GgufBuilder& builder) { builder.flag(key, true); }; };
  expect_error(without("tokenizer.ggml.scores"), "'tokenizer.ggml.scores'");
  expect_error(
      [](GgufBuilder& builder) {
        builder.remove("tokenizer.ggml.scores");
        floats(builder, "tokenizer.ggml.scores", {1, 2});
      },
      "'tokenizer.ggml.scores' has 2 entries; there are 8 tokens");
  expect_error(
      [](GgufBuilder& builder) {
        builder.remove("tokenizer.ggml.scores");
        builder.i32s("tokenizer.ggml.scores", {1, 2});
      },
      "is not an array of 32-bit floats");
  expect_error(flag("tokenizer.ggml.remove_extra_whitespaces"),
               "'tokenizer.ggml.remove_extra_whitespaces' is true");
  expect_error([](GgufBuilder& builder) { builder.texts("tokenizer.ggml.precompiled_charsmap", {}); },
               "'tokenizer.ggml.precompiled_charsmap'");
  const auto small = read([](GgufBuilder&) {}, 7);
  ASSERT_FALSE(small.ok());
  EXPECT_NE(small.status().message().find("has 8 entries; the vocabulary size is 7"), std::string::npos);
}

}  // namespace
}  // namespace kvcrush
