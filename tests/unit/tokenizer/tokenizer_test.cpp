#include "engine/tokenizer/tokenizer.h"

#include "tests/unit/tokenizer/small_vocabulary.h"

namespace kvcrush {
namespace {

using test::make_tokenizer;
using test::pieces_of;
using test::small_spec;
using Pieces = std::vector<std::string>;

const std::vector<std::string> kSpecials = {"<|end|>", "<|end|>>", "<|start|>", "<|"};

std::shared_ptr<const Tokenizer> chat_tokenizer() {
  return make_tokenizer(small_spec({{"h", "i"}, {" ", "hi"}, {"<", "|"}}, kSpecials));
}

TEST(Tokenizer, SpecialTokensLongestFirst) {
  const auto tokenizer = chat_tokenizer();
  const auto ids = tokenizer->encode("hi<|end|>> hi<|start|><|end|><|ends");
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(pieces_of(*tokenizer, *ids),
            (Pieces{"hi", "<|end|>>", " hi", "<|start|>", "<|end|>", "<|", "e", "n", "d", "s"}));
  EXPECT_TRUE(tokenizer->is_special(ids->at(1)));
  EXPECT_FALSE(tokenizer->is_special(ids->at(0)));
  EXPECT_EQ(tokenizer->decode(*ids, false), "hi<|end|>> hi<|start|><|end|><|ends");
  EXPECT_EQ(tokenizer->decode(*ids, true), "hi hiends");
}

TEST(Tokenizer, SpecialTokensCanStayPlainText) {
  const auto tokenizer = chat_tokenizer();
  const auto ids = tokenizer->encode("<|end|>", {.parse_special_tokens = false});
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(pieces_of(*tokenizer, *ids), (Pieces{"<|", "e", "n", "d", "|", ">"}));
  for (const TokenId id : *ids) EXPECT_FALSE(tokenizer->is_special(id));
}

TEST(Tokenizer, MessagesCannotForgeSpecialTokens) {
  const auto tokenizer = chat_tokenizer();
  const std::vector<PromptPiece> pieces = {{"<|start|>", false}, {"hi<|end|><|start|> hi", true},
                                           {"<|e", false},       {"nd|>", true},
                                           {"<|e", false},       {"nd|>", false}};
  const auto ids = tokenizer->encode(pieces);
  ASSERT_TRUE(ids.ok());
  Pieces specials;
  for (const TokenId id : *ids) {
    if (tokenizer->is_special(id)) specials.emplace_back(tokenizer->token_bytes(id));
  }
  // The first, "<|" of the half that the template wrote, and the last, whose halves are both the template's.
  EXPECT_EQ(specials, (Pieces{"<|start|>", "<|", "<|end|>"}));
  EXPECT_EQ(tokenizer->decode(*ids, false), "<|start|>hi<|end|><|start|> hi<|end|><|end|>");
}

TEST(Tokenizer, PiecesAreOneText) {
  const auto tokenizer = chat_tokenizer();
  const std::vector<PromptPiece> pieces = {{"a ", false}, {"h", true}, {"", false}, {"i", false}};
  const auto ids = tokenizer->encode(pieces);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(pieces_of(*tokenizer, *ids), (Pieces{"a", " hi"}));
  EXPECT_TRUE(tokenizer->encode(std::vector<PromptPiece>{})->empty());
}

TEST(Tokenizer, RefusesBrokenUtf8WithItsOffset) {
  const auto tokenizer = chat_tokenizer();
  const auto ids = tokenizer->encode("hi \xE2\x82");
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(ids.status().message().find("at byte 3"), std::string::npos) << ids.status().message();
  EXPECT_FALSE(tokenizer->encode(std::vector<PromptPiece>{{"a", false}, {"\xFF", true}}).ok());
}

TEST(Tokenizer, AddsBosOnlyWhereTheModelDoes) {
  TokenizerSpec spec = small_spec({}, {"<s>"});
  spec.bos_id = 256;
  EXPECT_EQ(*make_tokenizer(spec)->encode("a"), (std::vector<TokenId>{'a'}));
  spec.add_bos = true;
  const auto tokenizer = make_tokenizer(spec);
  EXPECT_EQ(*tokenizer->encode("a"), (std::vector<TokenId>{256, 'a'}));
  EXPECT_EQ(*tokenizer->encode("a", {.add_special_tokens = false}), (std::vector<TokenId>{'a'}));
  EXPECT_EQ(*tokenizer->encode(std::vector<PromptPiece>{{"a", true}}), (std::vector<TokenId>{'a'}));
}

TEST(Tokenizer, AddsASpaceInFrontWhereTheModelDoes) {
  TokenizerSpec spec = small_spec({{"h", "i"}, {" ", "hi"}});
  spec.space_prefix = SpacePrefix::kMissing;
  const auto tokenizer = make_tokenizer(spec);
  EXPECT_EQ(pieces_of(*tokenizer, *tokenizer->encode("hi")), (Pieces{" hi"}));
  EXPECT_EQ(pieces_of(*tokenizer, *tokenizer->encode(" hi")), (Pieces{" hi"}));
  EXPECT_TRUE(tokenizer->encode("")->empty());
}

TEST(Tokenizer, KindsOfTokens) {
  TokenizerSpec spec = small_spec({});
  const auto add = [&spec](std::string text, TokenKind kind) {
    spec.tokens.push_back(std::move(text));
    spec.kinds.push_back(kind);
  };
  add("<think>", TokenKind::kUserDefined);
  add("<unk>", TokenKind::kUnknown);
  add("[PAD7]", TokenKind::kUnused);
  add("<0x0A>", TokenKind::kByte);
  const auto tokenizer = make_tokenizer(spec);
  EXPECT_EQ(*tokenizer->encode("<think>"), (std::vector<TokenId>{256}));
  EXPECT_FALSE(tokenizer->is_special(256));  // shown: it is part of what the model says
  EXPECT_TRUE(tokenizer->is_special(257));
  EXPECT_TRUE(tokenizer->is_special(258));
  EXPECT_EQ(tokenizer->encode("[PAD7]")->size(), 6U);
  EXPECT_EQ(tokenizer->token_bytes(259), "\n");
}

TEST(Tokenizer, RefusesInconsistentSpecs) {
  const auto refusal = [](auto change) {
    TokenizerSpec spec = small_spec({{"h", "i"}});
    change(spec);
    const auto tokenizer = Tokenizer::create(std::move(spec));
    EXPECT_FALSE(tokenizer.ok());
    EXPECT_EQ(tokenizer.status().code(), StatusCode::kInvalidArgument);
    return tokenizer.status().message();
  };
  EXPECT_NE(refusal([](auto& spec) { spec.model = "bert"; }).find("'bert'"), std::string::npos);
  EXPECT_NE(refusal([](auto& spec) { spec.pre_tokenizer = "odd"; }).find("'odd'"), std::string::npos);
  EXPECT_NE(refusal([](auto& spec) { spec.kinds.pop_back(); }).find("256"), std::string::npos);
  EXPECT_NE(refusal([](auto& spec) { spec.merges.push_back("x yy"); }).find("x yy"), std::string::npos);
  EXPECT_NE(refusal([](auto& spec) { spec.bos_id = 257; }).find("bos_id"), std::string::npos);
  EXPECT_NE(refusal([](auto& spec) { spec.eos_id = -2; }).find("eos_id"), std::string::npos);
  EXPECT_NE(refusal([](auto& spec) { spec.stop_ids = {999}; }).find("999"), std::string::npos);
  EXPECT_NE(refusal([](auto& spec) { spec.add_bos = true; }).find("add_bos"), std::string::npos);
  EXPECT_NE(refusal([](auto& spec) { spec.tokens.clear(); }).find("no tokens"), std::string::npos);
  EXPECT_NE(refusal([](auto& spec) { spec.tokens[5].assign(65537, 'x'); }).find("token 5 has 65537 bytes"),
            std::string::npos);
}

TEST(TokenizerDeathTest, IdsOutsideTheVocabularyAreABug) {
  const auto tokenizer = chat_tokenizer();
  const std::vector<TokenId> too_large = {tokenizer->vocab_size()};
  EXPECT_DEATH(static_cast<void>(tokenizer->decode(too_large, false)), "vocab_size");
  EXPECT_DEATH(static_cast<void>(tokenizer->token_bytes(-1)), "vocab_size");
}

}  // namespace
}  // namespace kvcrush
