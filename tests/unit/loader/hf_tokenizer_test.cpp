#include "engine/loader/hf_tokenizer.h"

#include <gtest/gtest.h>

#include "engine/loader/tokenizer_json.h"
#include "tests/unit/loader/builders.h"

namespace kvcrush {
namespace {

using nlohmann::json;
using testing::small_tokenizer;
using testing::TemporaryDirectory;

constexpr const char* kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", use_regex}};
}

json split(const std::string& regex) {
  const json step = {
      {"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", json::array({step, byte_level(false)})}};
}

// Parsed JSON holds non-negative numbers as unsigned, which values written in C++ are not.
json as_parsed(const json& value) {
  return json::parse(value.dump());
}

Result<TokenizerSpec> parse(const json& changes) {
  json tokenizer = small_tokenizer();
  tokenizer.merge_patch(changes);
  return parse_tokenizer_json(as_parsed(tokenizer), 6, "tokenizer.json");
}

void expect_error(const json& changes, const std::string& part) {
  const Result<TokenizerSpec> spec = parse(changes);
  ASSERT_FALSE(spec.ok()) << "expected: " << part;
  EXPECT_EQ(spec.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(spec.status().message().find(part), std::string::npos) << spec.status().message();
}

TEST(HfTokenizer, ReadsVocabularyAndKinds) {
  const Result<TokenizerSpec> spec = parse(json::object());
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->model, "gpt2");
  EXPECT_EQ(spec->pre_tokenizer, "smollm");
  EXPECT_EQ(spec->tokens,
            (std::vector<std::string>{"a", "b", "ab", "<|endoftext|>", "<|im_end|>", "<tool>"}));
  EXPECT_EQ(spec->kinds[0], TokenKind::kNormal);
  EXPECT_EQ(spec->kinds[4], TokenKind::kControl);
  EXPECT_EQ(spec->kinds[5], TokenKind::kUserDefined);
  EXPECT_EQ(spec->merges, std::vector<std::string>{"a b"});
  EXPECT_FALSE(spec->add_bos);
  EXPECT_EQ(spec->space_prefix, SpacePrefix::kNone);
  EXPECT_FALSE(spec->normalize_nfc);
}

TEST(HfTokenizer, ReadsMergesAsPairs) {
  const Result<TokenizerSpec> spec = parse({{"model", {{"merges", json::array({json::array({"a", "b"})})}}}});
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->merges, std::vector<std::string>{"a b"});
  for (const json& merge : {json("ab"), json("a b c"), json::array({"a"}), json(7), json(" b"), json("a ")}) {
    expect_error({{"model", {{"merges", json::array({merge})}}}}, "two tokens are expected");
  }
}

TEST(HfTokenizer, RecognisesPreTokenizers) {
  const auto name = [](const json& pre_tokenizer) {
    json tokenizer = small_tokenizer();
    tokenizer["pre_tokenizer"] = pre_tokenizer;
    const Result<TokenizerSpec> spec = parse_tokenizer_json(tokenizer, 6, "tokenizer.json");
    return spec.ok() ? spec->pre_tokenizer : spec.status().message();
  };
  EXPECT_EQ(name(byte_level(true)), "gpt-2");
  EXPECT_EQ(name(split(kLlama3Regex)), "llama-bpe");
  EXPECT_EQ(name(split(kQwen2Regex)), "qwen2");
  EXPECT_NE(name(split("\\w+")).find("Split with the pattern '\\w+' is not known"), std::string::npos);
  EXPECT_NE(name({{"type", "Whitespace"}}).find("pre_tokenizer 'Whitespace' is not known"),
            std::string::npos);
  EXPECT_NE(name(json()).find("pre_tokenizer '' is not known"), std::string::npos);
  EXPECT_NE(name(byte_level(false)).find("pre_tokenizer 'ByteLevel' is not known"), std::string::npos);
}

TEST(HfTokenizer, FillsHolesWithUnusedTokens) {
  const Result<TokenizerSpec> spec = parse({{"model", {{"vocab", {{"ab", nullptr}}}}}});
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->tokens[2], "[PAD2]");
  EXPECT_EQ(spec->kinds[2], TokenKind::kUnused);
}

TEST(HfTokenizer, RefusesWhatIsNotSupported) {
  expect_error({{"model", {{"type", "Unigram"}}}}, "type is 'Unigram' after a pre_tokenizer of bytes");
  expect_error({{"model", {{"type", "WordPiece"}}}}, "type is 'WordPiece'; supported: BPE, Unigram");
  expect_error({{"model", {{"dropout", 0.5}}}}, "'dropout'");
  expect_error({{"model", {{"byte_fallback", true}}}}, "'byte_fallback'");
  expect_error({{"model", {{"end_of_word_suffix", "</w>"}}}}, "'end_of_word_suffix'");
  expect_error({{"model", {{"vocab", nullptr}}}}, "field 'vocab' is missing");
  expect_error({{"normalizer", {{"type", "Lowercase"}}}}, "type is 'Lowercase'");
  expect_error({{"model", {{"vocab", {{"far", 6}}}}}}, "token 'far' has id 6; allowed: 0 to 5");
  expect_error({{"model", {{"vocab", {{"neg", -1}}}}}}, "token 'neg' has id -1");
  expect_error({{"model", {{"vocab", {{"other", 0}}}}}}, "both have id 0");
  expect_error({{"added_tokens", json::array({{{"id", 3}}})}}, "has no 'content'");
  expect_error({{"added_tokens", json::array({{{"id", 3}, {"content", "x"}, {"single_word", true}}})}},
               "token 'x': field 'single_word' is true");
  expect_error({{"decoder", {{"type", "WordPiece"}}}}, "decoder 'WordPiece' after byte-level text");
}

ModelConfig six_tokens() {
  ModelConfig config;
  config.vocab_size = 6;
  return config;
}

TEST(HfTokenizer, ReadsTheFilesBesideIt) {
  const TemporaryDirectory directory;
  directory.write("tokenizer.json", small_tokenizer().dump());
  directory.write("tokenizer_config.json", json({{"bos_token", {{"content", "<|endoftext|>"}}},
                                                 {"eos_token", "<|im_end|>"},
                                                 {"pad_token", nullptr},
                                                 {"add_bos_token", true},
                                                 {"chat_template", "from the config"}})
                                               .dump());
  directory.write("generation_config.json", R"({"eos_token_id": [2, 4]})");
  Result<TokenizerSpec> spec =
      read_hf_tokenizer(directory.path(), as_parsed({{"eos_token_id", 1}}), six_tokens());
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->bos_id, 3);
  EXPECT_EQ(spec->eos_id, 4);
  EXPECT_EQ(spec->padding_id, -1);
  EXPECT_TRUE(spec->add_bos);
  EXPECT_EQ(spec->chat_template, "from the config");
  EXPECT_EQ(spec->stop_ids, (std::vector<TokenId>{4, 1, 2, 3}));

  directory.write("chat_template.jinja", std::string("from the file"));
  spec = read_hf_tokenizer(directory.path(), json::object(), six_tokens());
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->chat_template, "from the file");
}

TEST(HfTokenizer, TakesTheDefaultOfNamedTemplates) {
  const TemporaryDirectory directory;
  directory.write("tokenizer.json", small_tokenizer().dump());
  directory.write("tokenizer_config.json",
                  std::string(R"({"chat_template": [{"name": "tool_use", "template": "tools"},
                                                    {"name": "default", "template": "plain"}]})"));
  const Result<TokenizerSpec> spec = read_hf_tokenizer(directory.path(), json::object(), six_tokens());
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->chat_template, "plain");
}

TEST(HfTokenizer, PostProcessorSaysWhetherBosIsAdded) {
  const json single =
      json::array({{{"SpecialToken", {{"id", "<|endoftext|>"}}}}, {{"Sequence", {{"id", "A"}}}}});
  const json processor = {{"type", "TemplateProcessing"}, {"single", single}};
  const Result<TokenizerSpec> alone = parse({{"post_processor", processor}});
  ASSERT_TRUE(alone.ok());
  EXPECT_TRUE(alone->add_bos);
  const json sequence = {{"type", "Sequence"}, {"processors", json::array({byte_level(true), processor})}};
  const Result<TokenizerSpec> inside = parse({{"post_processor", sequence}});
  ASSERT_TRUE(inside.ok());
  EXPECT_TRUE(inside->add_bos);
  const Result<TokenizerSpec> without = parse({{"post_processor", byte_level(true)}});
  ASSERT_TRUE(without.ok());
  EXPECT_FALSE(without->add_bos);
}

TEST(HfTokenizer, PostProcessorMayAddATokenAfterTheText) {
  const auto processor = [](const json& single) {
    return json{{"post_processor", {{"type", "TemplateProcessing"}, {"single", single}}}};
  };
  const auto special = [](const char* text) { return json{{"SpecialToken", {{"id", text}}}}; };
  const json text = {{"Sequence", {{"id", "A"}}}};
  const Result<TokenizerSpec> spec =
      parse(processor({special("<|endoftext|>"), text, special("<|im_end|>")}));
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_TRUE(spec->add_bos && spec->add_eos);
  EXPECT_EQ(spec->bos_id, 3);
  EXPECT_EQ(spec->eos_id, 4);
  expect_error(processor({special("<gone>"), text}), "special token '<gone>' is not in the vocabulary");
  expect_error(processor({special("<|im_end|>"), special("<|im_end|>"), text}), "more than one token");
  expect_error(processor({text, text}), "more than one token");
  expect_error({{"post_processor", {{"type", "BertProcessing"}}}}, "'BertProcessing'");
}

TEST(HfTokenizer, NamesOfBosMustAgree) {
  const TemporaryDirectory directory;
  json tokenizer = small_tokenizer();
  tokenizer["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", {{{"SpecialToken", {{"id", "<|endoftext|>"}}}}, {{"Sequence", {{"id", "A"}}}}}}};
  directory.write("tokenizer.json", tokenizer.dump());
  directory.write("tokenizer_config.json", std::string(R"({"bos_token": "<|im_end|>"})"));
  const auto spec = read_hf_tokenizer(directory.path(), json::object(), six_tokens());
  ASSERT_FALSE(spec.ok());
  EXPECT_NE(spec.status().message().find("'bos_token' is '<|im_end|>', but '<|endoftext|>'"),
            std::string::npos)
      << spec.status().message();
}

TEST(HfTokenizer, RefusesIdsAndTokensThatDoNotExist) {
  const TemporaryDirectory directory;
  const auto message = [&](const json& config) {
    return read_hf_tokenizer(directory.path(), as_parsed(config), six_tokens()).status().message();
  };
  directory.write("tokenizer.json", small_tokenizer().dump());
  EXPECT_NE(message({{"eos_token_id", 6}}).find("config.json: field 'eos_token_id'"), std::string::npos);
  EXPECT_NE(message({{"eos_token_id", "x"}}).find("must hold ids from 0 to 5"), std::string::npos);
  directory.write("tokenizer_config.json", std::string(R"({"eos_token": "<gone>"})"));
  EXPECT_NE(message(json::object()).find("'eos_token' is '<gone>', which the vocabulary does not have"),
            std::string::npos);
  directory.write("tokenizer_config.json", std::string(R"({"add_bos_token": true})"));
  EXPECT_NE(message(json::object()).find("none is named"), std::string::npos);
}

}  // namespace
}  // namespace kvcrush
