// A tokenizer.json of SentencePiece's kind.
#include <gtest/gtest.h>

#include "engine/loader/tokenizer_json.h"
#include "engine/tokenizer/tokenizer.h"

namespace kvcrush {
namespace {

using nlohmann::json;

json small_pieces() {
  return json::parse(R"({
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                   {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": null,
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "vocab": {"<unk>": 0, "<s>": 1, "▁": 2, "a": 3, "▁a": 4},
              "merges": [["▁", "a"]]},
    "added_tokens": [{"id": 1, "content": "<s>", "special": true, "normalized": false, "rstrip": true}]})");
}

Result<TokenizerSpec> parse(const json& changes) {
  json tokenizer = small_pieces();
  tokenizer.merge_patch(changes);
  return parse_tokenizer_json(json::parse(tokenizer.dump()), 5, "tokenizer.json");
}

void expect_error(const json& changes, const std::string& part) {
  const auto spec = parse(changes);
  ASSERT_FALSE(spec.ok()) << "expected: " << part;
  EXPECT_NE(spec.status().message().find(part), std::string::npos) << spec.status().message();
}

TEST(HfPieces, Llama2) {
  const auto spec = parse(json::object());
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->model, "llama");
  EXPECT_EQ(spec->space_prefix, SpacePrefix::kAlways);
  EXPECT_TRUE(spec->strip_first_space && spec->fuse_unknown);
  EXPECT_EQ(spec->unknown_id, 0);
  EXPECT_EQ(spec->kinds[0], TokenKind::kUnknown);
  EXPECT_TRUE(spec->added_rules.at(1).strip_right);
  EXPECT_TRUE(spec->scores.empty());
  const auto tokenizer = Tokenizer::create(*spec);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ(*(*tokenizer)->encode("a<s> ax"), (std::vector<TokenId>{4, 1, 4, 0}));
}

TEST(HfPieces, MetaspaceSaysWhereASpaceGoes) {
  const auto with = [](const json& metaspace) {
    json step = {{"type", "Metaspace"}, {"replacement", "\u2581"}};
    step.update(metaspace);
    return parse({{"normalizer", nullptr}, {"pre_tokenizer", step}});
  };
  EXPECT_EQ(with({{"prepend_scheme", "first"}, {"split", false}})->space_prefix, SpacePrefix::kStartOfText);
  EXPECT_FALSE(with({{"prepend_scheme", "first"}, {"split", false}})->split_at_spaces);
  EXPECT_EQ(with({{"prepend_scheme", "always"}})->space_prefix, SpacePrefix::kMissing);
  EXPECT_TRUE(with({{"prepend_scheme", "always"}})->split_at_spaces);
  EXPECT_EQ(with({{"prepend_scheme", "never"}})->space_prefix, SpacePrefix::kNone);
  EXPECT_EQ(with({{"add_prefix_space", false}})->space_prefix, SpacePrefix::kNone);
  EXPECT_NE(with({{"prepend_scheme", "odd"}}).status().message().find("'odd'"), std::string::npos);
  EXPECT_NE(with({{"replacement", "_"}}).status().message().find("'replacement' is '_'"), std::string::npos);
}

TEST(HfPieces, Gemma) {
  const auto spec =
      parse({{"normalizer",
              {{"type", "Replace"},
               {"pattern", {{"String", " "}}},
               {"content", "\u2581"},
               {"normalizers", nullptr}}},
             {"pre_tokenizer",
              {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}}},
             {"decoder",
              {{"type", "Replace"},
               {"pattern", {{"String", "\u2581"}}},
               {"content", " "},
               {"decoders", nullptr}}}});
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->space_prefix, SpacePrefix::kNone);
  EXPECT_FALSE(spec->strip_first_space);
}

TEST(HfPieces, Unigram) {
  json tokenizer = small_pieces();
  tokenizer["model"] = json::parse(
      R"({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["<s>", 0], ["▁", -2], ["a", -2.5], ["▁a", -3]]})");
  auto spec = parse_tokenizer_json(tokenizer, 5, "tokenizer.json");
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  EXPECT_EQ(spec->model, "t5");
  EXPECT_EQ(spec->scores, (std::vector<double>{0, 0, -2, -2.5, -3}));
  for (const json& vocab :
       {json::object(), json::array({1}), json::array({{"a", "b"}}), json::array({{"a", 1e300}})}) {
    tokenizer["model"]["vocab"] = vocab;
    EXPECT_FALSE(parse_tokenizer_json(tokenizer, 5, "tokenizer.json").ok()) << vocab;
  }
}

TEST(HfPieces, RefusesWhatIsNotSupported) {
  expect_error({{"normalizer", {{"normalizers", {{{"type", "NFKC"}}}}}}}, "type is 'NFKC'");
  expect_error({{"normalizer", {{"normalizers", {{{"type", "Prepend"}, {"prepend", "\u2581"}}}}}}},
               "Prepend without Replace");
  expect_error({{"normalizer", {{"normalizers", {{{"type", "Prepend"}, {"prepend", "_"}}}}}}},
               "Prepend of '_'");
  expect_error({{"decoder", nullptr}}, "field 'decoder' is missing");
  expect_error({{"decoder", {{"decoders", {{{"type", "Fuse"}}}}}}}, "does not turn U+2581 into spaces");
  expect_error({{"decoder", {{"decoders", {{{"type", "Strip"}, {"content", " "}, {"start", 2}}}}}}}, "Strip");
  expect_error({{"model", {{"unk_token", "<gone>"}}}}, "'unk_token' is '<gone>'");
  expect_error({{"model", {{"byte_fallback", true}}}}, "'byte_fallback' is true but 'vocab' has no token");
  expect_error({{"model", {{"ignore_merges", true}}}}, "'ignore_merges'");
  expect_error({{"pre_tokenizer", {{"type", "Metaspace"}}}}, "Metaspace after a normalizer with Prepend");
  expect_error({{"pre_tokenizer", {{"type", "ByteLevel"}}}}, "ByteLevel after a normalizer");
}

}  // namespace
}  // namespace kvcrush
