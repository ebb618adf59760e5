#include "engine/tokenizer/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "engine/core/readable.h"
#include "engine/tokenizer/byte_alphabet.h"
#include "tests/unit/tokenizer/small_vocabulary.h"

namespace kvcrush {
namespace {

std::vector<std::string> all_bytes() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  return tokens;
}

// Byte-level, from merges spelled in GPT-2's alphabet.
Result<Bpe> make_bpe(const std::vector<std::string>& tokens, const std::vector<std::string>& merges,
                     bool whole_words_first) {
  TokenIndex index = index_tokens(tokens);
  auto listed = listed_merges(index, merges, bytes_from_alphabet);
  if (!listed.ok()) return listed.status();
  return Bpe(std::move(index), *listed, BpeUnit::kBytes, whole_words_first);
}

std::vector<TokenId> encode(const Bpe& bpe, std::string_view word) {
  Bpe::Scratch scratch;
  std::vector<TokenId> ids;
  bpe.encode(word, scratch, ids);
  return ids;
}

TEST(Bpe, LowerRankMergesFirst) {
  auto tokens = all_bytes();
  tokens.insert(tokens.end(), {"bc", "ab", "abc"});
  const auto bpe = make_bpe(tokens, {"b c", "a b", "ab c"}, false);
  ASSERT_TRUE(bpe.ok());
  // "b c" comes before "a b", so "abc" is never reached although it is a token.
  EXPECT_EQ(encode(*bpe, "abc"), (std::vector<TokenId>{'a', 256}));
  EXPECT_EQ(encode(*bpe, "abab"), (std::vector<TokenId>{257, 257}));
  const auto whole = make_bpe(tokens, {"b c", "a b", "ab c"}, true);
  ASSERT_TRUE(whole.ok());
  EXPECT_EQ(encode(*whole, "abc"), (std::vector<TokenId>{258}));
}

TEST(Bpe, TiesGoToTheLeft) {
  auto tokens = all_bytes();
  tokens.emplace_back("aa");
  const auto bpe = make_bpe(tokens, {"a a"}, false);
  ASSERT_TRUE(bpe.ok());
  EXPECT_EQ(encode(*bpe, "aaa"), (std::vector<TokenId>{256, 'a'}));
  EXPECT_EQ(encode(*bpe, ""), std::vector<TokenId>{});
}

TEST(Bpe, BytesWithoutATokenAreLeftOut) {
  auto tokens = all_bytes();
  tokens['x'].clear();
  tokens.emplace_back("ab");
  const auto bpe = make_bpe(tokens, {"a b"}, false);
  ASSERT_TRUE(bpe.ok());
  EXPECT_EQ(encode(*bpe, "xaxbx"), (std::vector<TokenId>{256}));
}

TEST(Bpe, RefusesBadMerges) {
  auto tokens = all_bytes();
  tokens.emplace_back("ab");
  for (const std::string merge : {"ab", "a ", " b", "a b ", "q ab", "zz b", "a zz", "\u4E2D b"}) {
    const auto bpe = make_bpe(tokens, {"a b", merge}, false);
    ASSERT_FALSE(bpe.ok()) << merge;
    EXPECT_EQ(bpe.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(bpe.status().message().find("merge 1 " + in_quotes(merge)), std::string::npos)
        << bpe.status().message();
  }
}

// Merges the best pair again and again over the whole word.
std::vector<std::string> naive_merge(std::string_view word,
                                     const std::vector<std::pair<std::string, std::string>>& merges) {
  std::vector<std::string> parts;
  for (const char byte : word) parts.emplace_back(1, byte);
  while (true) {
    std::size_t best_rank = merges.size();
    std::size_t best_place = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto rank = static_cast<std::size_t>(
          std::find(merges.begin(), merges.end(), std::pair(parts[i], parts[i + 1])) - merges.begin());
      if (rank < best_rank) {
        best_rank = rank;
        best_place = i;
      }
    }
    if (best_rank == merges.size()) return parts;
    parts[best_place] += parts[best_place + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best_place) + 1);
  }
}

TEST(Bpe, AgreesWithNaiveMerging) {
  std::mt19937 rng(7);
  for (int round = 0; round < 60; ++round) {
    auto tokens = all_bytes();
    std::vector<std::string> letters = {"a", "b", "c"};
    std::vector<std::pair<std::string, std::string>> merges;
    std::vector<std::string> lines;
    while (merges.size() < 25) {
      const std::string left = letters[rng() % letters.size()];
      const std::string right = letters[rng() % letters.size()];
      if (std::find(tokens.begin(), tokens.end(), left + right) != tokens.end()) continue;
      merges.emplace_back(left, right);
      lines.push_back(left + " " + right);
      tokens.push_back(left + right);
      letters.push_back(left + right);
    }
    const auto bpe = make_bpe(tokens, lines, false);
    ASSERT_TRUE(bpe.ok());
    for (int i = 0; i < 40; ++i) {
      std::string word;
      for (std::size_t n = rng() % 60; n > 0; --n) word += static_cast<char>('a' + rng() % 3);
      std::vector<std::string> parts;
      for (const TokenId id : encode(*bpe, word)) parts.push_back(tokens[static_cast<std::size_t>(id)]);
      ASSERT_EQ(parts, naive_merge(word, merges)) << word;
    }
  }
}

TEST(Bpe, AMegabyteWordIsNotQuadratic) {
  const auto tokenizer =
      test::make_tokenizer(test::small_spec({{"a", "b"}, {"ab", "ab"}, {"abab", "abab"}, {"b", "a"}}));
  std::string word;
  for (int i = 0; i < 500'000; ++i) word += "ab";
  const auto start = std::chrono::steady_clock::now();
  const auto ids = tokenizer->encode(word);
  const auto elapsed = std::chrono::steady_clock::now() - start;
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->size(), 125'000U);
  EXPECT_LT(elapsed, std::chrono::seconds(30));  // a quadratic merge takes hours
}

}  // namespace
}  // namespace kvcrush
