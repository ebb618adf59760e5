// SentencePiece vocabularies through the tokenizer and the incremental decoder.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "engine/tokenizer/incremental_decoder.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/unit/tokenizer/small_pieces.h"
#include "tests/unit/tokenizer/small_vocabulary.h"

namespace kvcrush {
namespace {

using test::add_token;
using test::make_tokenizer;
using test::pieces_of;
using test::small_pieces;
using Pieces = std::vector<std::string>;

const Pieces kHi = {"hi", "\u2581hi", "\u2581\u2581", "\u2581", "h", "i", "\n"};

Pieces encode(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text);
  EXPECT_TRUE(ids.ok()) << ids.status().message();
  return ids.ok() ? pieces_of(tokenizer, *ids) : Pieces{};
}

TEST(SentencePiece, WhereASpaceGoesInFront) {
  const auto always = make_tokenizer(small_pieces(kHi));
  EXPECT_EQ(encode(*always, "hi</s>hi"), (Pieces{" hi", "</s>", " hi"}));
  EXPECT_EQ(encode(*always, " hi"), (Pieces{" ", " hi"}));
  const auto missing = make_tokenizer(small_pieces(kHi, SpacePrefix::kMissing));
  EXPECT_EQ(encode(*missing, " hi</s>hi"), (Pieces{" hi", "</s>", " hi"}));
  const auto start = make_tokenizer(small_pieces(kHi, SpacePrefix::kStartOfText));
  EXPECT_EQ(encode(*start, "hi</s>hi"), (Pieces{" hi", "</s>", "hi"}));
  EXPECT_EQ(encode(*start, "</s>hi"), (Pieces{"</s>", "hi"}));
  const auto none = make_tokenizer(small_pieces(kHi, SpacePrefix::kNone));
  EXPECT_EQ(encode(*none, "hi hi"), (Pieces{"hi", " hi"}));
  EXPECT_TRUE(encode(*always, "").empty());
}

TEST(SentencePiece, HighestScoreMergesFirst) {
  const auto first = make_tokenizer(small_pieces({"bc", "ab", "\u2581", "a", "b", "c"}, SpacePrefix::kNone));
  EXPECT_EQ(encode(*first, "abc ab"), (Pieces{"a", "bc", " ", "ab"}));
  // Equal scores: from left to right.
  TokenizerSpec spec = small_pieces({"bc", "ab", "a", "b", "c"}, SpacePrefix::kNone);
  for (double& score : spec.scores) score = -1;
  EXPECT_EQ(encode(*make_tokenizer(spec), "abc"), (Pieces{"ab", "c"}));
}

TEST(SentencePiece, WhatHasNoPieceIsBytesOrUnknown) {
  TokenizerSpec spec = small_pieces(kHi);
  EXPECT_EQ(encode(*make_tokenizer(spec), "h\u00E4"), (Pieces{" ", "h", "\xC3", "\xA4"}));
  for (std::size_t i = 3; i < 259; ++i) spec.kinds[i] = TokenKind::kUnused;
  spec.fuse_unknown = true;
  const auto fused = make_tokenizer(spec);
  EXPECT_EQ(encode(*fused, "h\u00E4\u00F6i\u00E4"), (Pieces{" ", "h", "<unk>", "i", "<unk>"}));
  spec.fuse_unknown = false;
  EXPECT_EQ(encode(*make_tokenizer(spec), "\u00E4\u00F6"), (Pieces{" ", "<unk>", "<unk>"}));
}

TEST(SentencePiece, MergesNeverMakeAControlToken) {
  TokenizerSpec spec = small_pieces({"<", "s", ">", "<s", "\u2581"}, SpacePrefix::kNone);
  spec.scores.clear();
  spec.merges = {"< s", "<s >"};
  const auto tokenizer = make_tokenizer(spec);
  const auto ids = tokenizer->encode("<s>", {.parse_special_tokens = false});
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(pieces_of(*tokenizer, *ids), (Pieces{"<s", ">"}));
}

TEST(SentencePiece, WhiteSpaceTokensAreTextAndMarkersAreNot) {
  TokenizerSpec spec = small_pieces(kHi, SpacePrefix::kNone);
  add_token(spec, "\n\n", TokenKind::kUserDefined);
  add_token(spec, "\u2581\u2581\u2581", TokenKind::kUserDefined, {.normalized = true});
  const TokenId marker = add_token(spec, "<turn>", TokenKind::kUserDefined, {.normalized = true});
  const auto tokenizer = make_tokenizer(spec);
  const std::vector<PromptPiece> pieces = {{"<turn>\n", false}, {"\n\n\n   hi<turn>", true}};
  const auto ids = tokenizer->encode(std::span<const PromptPiece>(pieces));
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(std::count(ids->begin(), ids->end(), marker), 1);
  const Pieces found = pieces_of(*tokenizer, *ids);
  EXPECT_EQ(Pieces(found.begin(), found.begin() + 5), (Pieces{"<turn>", "\n\n", "\n\n", "   ", "hi"}));
}

TEST(SentencePiece, MarkersTakeWhiteSpaceAlong) {
  TokenizerSpec spec = small_pieces(kHi, SpacePrefix::kNone);
  add_token(spec, "[L]", TokenKind::kControl, {.strip_left = true});
  add_token(spec, "[R]", TokenKind::kControl, {.strip_right = true});
  const auto tokenizer = make_tokenizer(spec);
  EXPECT_EQ(encode(*tokenizer, "hi \u3000[L] hi"), (Pieces{"hi", "[L]", " hi"}));
  EXPECT_EQ(encode(*tokenizer, "hi [R]\n \u2003hi"), (Pieces{"hi", " ", "[R]", "hi"}));
  EXPECT_EQ(encode(*tokenizer, "[R] [L]"), (Pieces{"[R]", "[L]"}));
  // Across pieces too.
  const std::vector<PromptPiece> pieces = {{"[R]", false}, {"\n hi [L]", true}, {" [R]", false}};
  const auto ids = tokenizer->encode(std::span<const PromptPiece>(pieces));
  ASSERT_TRUE(ids.ok());
  EXPECT_TRUE(tokenizer->decode(*ids, false).starts_with("[R]hi [L]"));
}

TEST(SentencePiece, AddsTokensAroundTheText) {
  TokenizerSpec spec = small_pieces(kHi);
  spec.add_bos = spec.add_eos = true;
  EXPECT_EQ(encode(*make_tokenizer(spec), "hi"), (Pieces{"<s>", " hi", "</s>"}));
}

TEST(SentencePiece, DecodingTakesTheFirstSpaceAway) {
  const auto tokenizer = make_tokenizer(small_pieces(kHi));
  for (const std::string text : {"hi hi", " hi", "", " ", "\u00E4", "hi\nhi  "}) {
    EXPECT_EQ(tokenizer->decode(*tokenizer->encode(text), true), text);
  }
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{1, 260}, true), "hi");
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{1, 260}, false), "<s> hi");
}

std::vector<std::string> stream(const std::shared_ptr<const Tokenizer>& tokenizer, std::string_view text,
                                bool begins_text) {
  IncrementalDecoder decoder(tokenizer, {}, true, begins_text);
  std::vector<std::string> parts;
  const std::vector<TokenId> ids = tokenizer->encode(text).value();
  for (const TokenId id : ids) parts.push_back(decoder.push(id));
  parts.push_back(decoder.flush());
  return parts;
}

TEST(SentencePiece, StreamsBytesAsCharactersAndTheFirstSpaceOnlyAfterAPrompt) {
  const auto tokenizer = make_tokenizer(small_pieces(kHi));
  EXPECT_EQ(stream(tokenizer, "hi \u00E4", true), (Pieces{"hi", " ", "", "\u00E4", ""}));
  EXPECT_EQ(stream(tokenizer, "hi hi", false), (Pieces{" hi", " hi", ""}));
  EXPECT_EQ(stream(tokenizer, "  hi", true), (Pieces{" ", " hi", ""}));
  const auto gemma = make_tokenizer(small_pieces(kHi, SpacePrefix::kNone));
  EXPECT_EQ(stream(gemma, " hi", true), (Pieces{" hi", ""}));
}

TEST(SentencePiece, RefusesWhatDoesNotFitTogether) {
  const auto refusal = [](auto change) {
    TokenizerSpec spec = small_pieces(kHi);
    change(spec);
    const auto tokenizer = Tokenizer::create(std::move(spec));
    EXPECT_FALSE(tokenizer.ok());
    return tokenizer.status().message();
  };
  EXPECT_NE(refusal([](auto& spec) { spec.scores.pop_back(); }).find("265 scores"), std::string::npos);
  EXPECT_NE(refusal([](auto& spec) { spec.scores[7] = NAN; }).find("score of token 7"), std::string::npos);
  EXPECT_NE(refusal([](auto& spec) { spec.kinds[3 + 0x41] = TokenKind::kNormal; }).find("none of byte 65"),
            std::string::npos);
  EXPECT_NE(refusal([](auto& spec) { spec.tokens[3] = "<0xZZ>"; }).find("'<0xZZ>'"), std::string::npos);
  EXPECT_NE(refusal([](auto& spec) {
              for (std::size_t i = 3; i < 259; ++i) spec.kinds[i] = TokenKind::kUnused;
              spec.unknown_id = -1;
            }).find("neither tokens of bytes nor an unknown token"),
            std::string::npos);
  EXPECT_NE(refusal([](auto& spec) {
              spec.scores.clear();
              spec.merges = {"h zz"};
            }).find("the right part is not a token"),
            std::string::npos);
  EXPECT_NE(refusal([](auto& spec) { spec.add_eos = true, spec.eos_id = -1; }).find("add_eos"),
            std::string::npos);
}

TEST(SentencePiece, AMegabyteWithoutSpacesIsNotQuadratic) {
  const auto tokenizer = make_tokenizer(small_pieces({"ab", "abab", "ba", "\u2581", "a", "b"}));
  std::string text;
  for (int i = 0; i < 500'000; ++i) text += "ab";
  const auto start = std::chrono::steady_clock::now();
  const auto ids = tokenizer->encode(text);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->size(), 250'001U);
  EXPECT_LT(std::chrono::steady_clock::now() - start,
            std::chrono::seconds(30));  // a quadratic merge takes hours
}

}  // namespace
}  // namespace kvcrush
