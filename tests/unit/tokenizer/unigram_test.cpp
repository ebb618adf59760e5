#include "engine/tokenizer/unigram.h"

#include <gtest/gtest.h>

namespace kvcrush {
namespace {

std::vector<TokenId> encode(const Unigram& model, std::string_view text) {
  Unigram::Scratch scratch;
  std::vector<TokenId> ids;
  model.encode(text, scratch, ids);
  return ids;
}

const std::vector<std::string> kTokens = {"a", "b", "ab", "abc", "c"};

TEST(Unigram, TakesTheLikeliestPath) {
  const Unigram model(index_tokens(kTokens), {-2, -2, -3, -9, -2}, {});
  EXPECT_EQ(encode(model, "abc"), (std::vector<TokenId>{2, 4}));  // -5, and not -9 or -6
  EXPECT_EQ(encode(model, "ba"), (std::vector<TokenId>{1, 0}));
  EXPECT_TRUE(encode(model, "").empty());
}

TEST(Unigram, UnknownCharacters) {
  const std::vector<double> scores = {-2, -2, -3, -9, -2};
  EXPECT_EQ(encode(Unigram(index_tokens(kTokens), scores, {}), "a\u00E4\u00E4b"),
            (std::vector<TokenId>{0, 1}));
  UnknownCharacters unknown;
  unknown.unknown_id = 9;
  EXPECT_EQ(encode(Unigram(index_tokens(kTokens), scores, unknown), "a\u00E4\u00E4b"),
            (std::vector<TokenId>{0, 9, 9, 1}));
  unknown.fuse = true;
  EXPECT_EQ(encode(Unigram(index_tokens(kTokens), scores, unknown), "a\u00E4\u00E4b"),
            (std::vector<TokenId>{0, 9, 1}));
  for (int byte = 0; byte < 256; ++byte) unknown.byte_ids[static_cast<std::size_t>(byte)] = 100 + byte;
  EXPECT_EQ(encode(Unigram(index_tokens(kTokens), scores, unknown), "\u00E4"),
            (std::vector<TokenId>{100 + 0xC3, 100 + 0xA4}));
}

}  // namespace
}  // namespace kvcrush
