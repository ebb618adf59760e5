#include "engine/loader/sentencepiece_model.h"

#include <gtest/gtest.h>

#include "engine/loader/hf_tokenizer.h"
#include "tests/unit/loader/builders.h"
#include "tests/unit/loader/protobuf_builder.h"

namespace kvcrush {
namespace {

using testing::Bytes;
using testing::field;
using testing::small_sentencepiece;
using testing::TemporaryDirectory;

Result<TokenizerSpec> parse(const std::string& message, int vocab_size = 6) {
  Bytes bytes;
  testing::append_text(bytes, message);
  return parse_sentencepiece_model(testing::view(bytes), vocab_size, "tokenizer.model");
}

void expect_error(const std::string& message, const std::string& part, int vocab_size = 6) {
  const auto spec = parse(message, vocab_size);
  ASSERT_FALSE(spec.ok()) << "expected: " << part;
  EXPECT_EQ(spec.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(spec.status().message().find(part), std::string::npos) << spec.status().message();
}

TEST(SentencePieceModel, ReadsPiecesAndIds) {
  const auto spec = parse(small_sentencepiece());
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->model, "llama");
  EXPECT_EQ(spec->tokens, (std::vector<std::string>{"<unk>", "<s>", "</s>", "\u2581", "a", "\u2581\u2581"}));
  EXPECT_EQ(spec->kinds[0], TokenKind::kUnknown);
  EXPECT_EQ(spec->kinds[5], TokenKind::kUserDefined);
  EXPECT_TRUE(spec->added_rules.at(5).normalized);
  EXPECT_EQ(spec->scores[4], -1.0);
  EXPECT_EQ(spec->unknown_id, 0);
  EXPECT_EQ(spec->bos_id, 1);
  EXPECT_EQ(spec->eos_id, 2);
  EXPECT_EQ(spec->padding_id, -1);
  EXPECT_EQ(spec->space_prefix, SpacePrefix::kAlways);
}

TEST(SentencePieceModel, RefusesWhatIsNotSupported) {
  const std::string model = small_sentencepiece();
  expect_error(model + field(3, field(2, "charsmap") + field(1, "nfkc")), "normalisation 'nfkc'");
  expect_error(model + field(3, field(4, 1)), "remove_extra_whitespaces is true");
  expect_error(model + field(3, field(5, 0)), "escape_whitespaces is false");
  expect_error(model + field(2, field(3, 4)), "model_type is 4");
  expect_error(model + field(2, field(24, 1)), "treat_whitespace_as_suffix");
  expect_error(model + field(2, field(41, 6)), "id 6 is beyond the 6 pieces");
  expect_error(model + field(5, field(2, "x")), "denormalizer_spec");
  expect_error(model, "more pieces than the vocabulary size, 5", 5);
  expect_error(model + field(1, field(3, 9) + field(1, "x")), "piece 6 is of type 9", 7);
  expect_error(model + field(1, field(3, 1)), "piece 6 has no text", 7);
}

TEST(SentencePieceModel, RefusesBrokenMessages) {
  expect_error("", "has no pieces");
  expect_error(small_sentencepiece() + "\x0A", "a protobuf number");
  expect_error(small_sentencepiece() + "\x0A\x7F", "expected 127 bytes");
  expect_error(std::string("\x0B", 1), "wire type 3");
  expect_error(std::string("\x08\x01", 2), "has wire type 0; expected 2");
  expect_error(std::string(12, '\xFF'), "longer than 10 bytes");
}

TEST(SentencePieceModel, FolderWithoutTokenizerJson) {
  const TemporaryDirectory directory;
  directory.write("tokenizer.model", small_sentencepiece());
  directory.write("tokenizer_config.json",
                  std::string(R"({"legacy": false, "add_eos_token": true, "added_tokens_decoder": {
    "2": {"content": "</s>", "special": true, "rstrip": true}, "7": {"content": "<|user|>", "special": true}}})"));
  directory.write("added_tokens.json", std::string(R"({"<|old|>": 8, "<|user|>": 7})"));
  ModelConfig config;
  config.vocab_size = 9;
  auto spec = read_hf_tokenizer(directory.path(), nlohmann::json::object(), config);
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->tokens.size(), 9U);
  EXPECT_EQ(spec->tokens[6], "[PAD6]");
  EXPECT_EQ(spec->kinds[7], TokenKind::kControl);
  EXPECT_EQ(spec->kinds[8], TokenKind::kControl);
  EXPECT_TRUE(spec->added_rules.at(2).strip_right);
  EXPECT_EQ(spec->scores.size(), 9U);
  EXPECT_TRUE(spec->add_bos && spec->add_eos);
  EXPECT_EQ(spec->space_prefix, SpacePrefix::kStartOfText);

  config.vocab_size = 8;
  spec = read_hf_tokenizer(directory.path(), nlohmann::json::object(), config);
  ASSERT_FALSE(spec.ok());
  EXPECT_NE(spec.status().message().find("'<|old|>' has id 8; allowed: 0 to 7"), std::string::npos)
      << spec.status().message();
  const TemporaryDirectory empty;
  spec = read_hf_tokenizer(empty.path(), nlohmann::json::object(), config);
  EXPECT_NE(spec.status().message().find("neither tokenizer.json nor tokenizer.model"), std::string::npos);
}

}  // namespace
}  // namespace kvcrush
