#include "engine/tokenizer/incremental_decoder.h"

#include <algorithm>
#include <random>

#include "tests/unit/tokenizer/small_vocabulary.h"

namespace kvcrush {
namespace {

using test::make_tokenizer;
using test::small_spec;

std::shared_ptr<const Tokenizer> byte_tokenizer() {
  static const auto tokenizer =
      make_tokenizer(small_spec({{"a", "b"}, {"c", "d"}, {"ab", "cd"}, {"\xC3", "\xA4"}}, {"<|end|>"}));
  return tokenizer;
}

TokenId id_of(std::string_view text) {
  const auto tokenizer = byte_tokenizer();
  for (TokenId id = 0; id < tokenizer->vocab_size(); ++id) {
    if (tokenizer->token_bytes(id) == text) return id;
  }
  ADD_FAILURE() << "no token " << text;
  return 0;
}

// What comes out after each byte, with "|" between.
std::string push_bytes(IncrementalDecoder& decoder, std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) out += decoder.push(static_cast<std::uint8_t>(byte)) + "|";
  return out;
}

TEST(IncrementalDecoder, HoldsUnfinishedCharactersBack) {
  IncrementalDecoder decoder(byte_tokenizer(), {}, true);
  EXPECT_EQ(push_bytes(decoder, "a\xF0\x9F\x98\x80z"), "a||||\U0001F600|z|");
  EXPECT_EQ(decoder.flush(), "");
}

TEST(IncrementalDecoder, BrokenBytesBecomeReplacementCharacters) {
  IncrementalDecoder decoder(byte_tokenizer(), {}, true);
  EXPECT_EQ(push_bytes(decoder, "\xFF\xE2\x82x\xC3"), "\uFFFD|||\uFFFDx||");
  EXPECT_EQ(decoder.flush(), "\uFFFD");
  EXPECT_EQ(decoder.flush(), "");
}

TEST(IncrementalDecoder, SpecialTokensAreHiddenOnDemand) {
  IncrementalDecoder hides(byte_tokenizer(), {}, true);
  EXPECT_EQ(hides.push(id_of("<|end|>")), "");
  IncrementalDecoder shows(byte_tokenizer(), {}, false);
  EXPECT_EQ(shows.push(id_of("<|end|>")), "<|end|>");
}

TEST(IncrementalDecoder, StopAcrossTokens) {
  IncrementalDecoder decoder(byte_tokenizer(), {"\n\nUser:"}, true);
  EXPECT_EQ(push_bytes(decoder, "Hi\n\nUs"), "H|i|||||");
  EXPECT_EQ(decoder.push('x'), "\n\nUsx");
  EXPECT_EQ(push_bytes(decoder, "\n\n\nUser:more"), "||\n||||||||||");
  EXPECT_EQ(decoder.stop_match(), "\n\nUser:");
  EXPECT_EQ(decoder.flush(), "");
}

TEST(IncrementalDecoder, StopInsideAToken) {
  IncrementalDecoder decoder(byte_tokenizer(), {"bc"}, true);
  EXPECT_EQ(decoder.push(id_of("abcd")), "a");
  EXPECT_EQ(decoder.stop_match(), "bc");
  EXPECT_EQ(decoder.push(id_of("ab")), "");
}

TEST(IncrementalDecoder, EarliestThenLongestStopWins) {
  IncrementalDecoder earliest(byte_tokenizer(), {"cd", "bc"}, true);
  EXPECT_EQ(earliest.push(id_of("abcd")), "a");
  EXPECT_EQ(earliest.stop_match(), "bc");
  IncrementalDecoder longest(byte_tokenizer(), {"b", "bcd", "bc"}, true);
  EXPECT_EQ(longest.push(id_of("abcd")), "a");
  EXPECT_EQ(longest.stop_match(), "bcd");
  // A shorter one that is complete does not wait for a longer one that may never come.
  IncrementalDecoder prompt(byte_tokenizer(), {"bcd", "b"}, true);
  EXPECT_EQ(prompt.push(id_of("ab")), "a");
  EXPECT_EQ(prompt.stop_match(), "b");
}

TEST(IncrementalDecoder, StopsWithACommonPrefix) {
  IncrementalDecoder decoder(byte_tokenizer(), {"aab", "aac"}, true);
  EXPECT_EQ(push_bytes(decoder, "aaad"), "||a|aad|");
  EXPECT_EQ(push_bytes(decoder, "aaac"), "||a||");
  EXPECT_EQ(decoder.stop_match(), "aac");
}

TEST(IncrementalDecoder, StopSplitInsideACharacter) {
  IncrementalDecoder decoder(byte_tokenizer(), {"\u00E4\u00F6"}, true);
  EXPECT_EQ(push_bytes(decoder, "x\xC3\xA4\xC3\xA4\xC3\xB6y"), "x||||\u00E4||||");
  EXPECT_EQ(decoder.stop_match(), "\u00E4\u00F6");
}

TEST(IncrementalDecoder, EmptyStopStringsNeverMatch) {
  IncrementalDecoder decoder(byte_tokenizer(), {""}, true);
  EXPECT_EQ(decoder.push('a'), "a");
  EXPECT_FALSE(decoder.stop_match());
}

TEST(IncrementalDecoder, StopsBeforeMinTokensDoNotCount) {
  IncrementalDecoder decoder(byte_tokenizer(), {"ab"}, true);
  EXPECT_EQ(decoder.push(id_of("ab"), false), "ab");
  EXPECT_EQ(decoder.push('a', false), "");
  // Begun before and completed after.
  EXPECT_EQ(decoder.push('b', true), "");
  EXPECT_EQ(decoder.stop_match(), "ab");
}

TEST(IncrementalDecoder, AStopMissedBeforeMinTokensIsNotFoundLater) {
  IncrementalDecoder decoder(byte_tokenizer(), {"ab", "abx"}, true);
  EXPECT_EQ(decoder.push(id_of("ab"), false), "");  // could become "abx"
  EXPECT_EQ(decoder.push('y', true), "aby");
  EXPECT_FALSE(decoder.stop_match());
  EXPECT_EQ(decoder.push(id_of("ab"), false), "");
  EXPECT_EQ(decoder.push('x', true), "");
  EXPECT_EQ(decoder.stop_match(), "abx");
}

TEST(IncrementalDecoder, WhatIsHeldBackComesWithTheFlush) {
  IncrementalDecoder decoder(byte_tokenizer(), {"STOP"}, true);
  EXPECT_EQ(push_bytes(decoder, "xSTO\xC3"), "x|||||");
  EXPECT_EQ(decoder.flush(), "STO\uFFFD");
  EXPECT_FALSE(decoder.stop_match());
}

// Any tokens, any stops: the pieces join to the text up to the first stop that a byte completes.
TEST(IncrementalDecoder, AgreesWithDecodingAtOnce) {
  std::mt19937 rng(3);
  const auto tokenizer = byte_tokenizer();
  const std::vector<std::string> units = {"a",    "b",    "c",    "d",    "\xC3", "\xA4",
                                          "\xF0", "\x9F", "\x98", "\x80", "\xFF"};
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (unsigned i = rng() % 3; i > 0; --i) {
      std::string stop;
      for (unsigned n = 1 + rng() % 3; n > 0; --n)
        stop += rng() % 5 == 0 ? "\u00E4" : std::string(1, static_cast<char>('a' + rng() % 4));
      stops.push_back(stop);
    }
    IncrementalDecoder decoder(tokenizer, stops, true);
    std::string bytes;
    std::string out;
    for (int i = 0; i < 30; ++i) {
      const std::string& unit = units[rng() % units.size()];
      bytes += unit;
      out += decoder.push(id_of(unit));
      ASSERT_EQ(replace_broken_utf8(out), out);
    }
    out += decoder.flush();
    const std::string text = replace_broken_utf8(bytes);
    std::size_t best_end = std::string::npos;
    std::size_t best_begin = std::string::npos;
    for (const std::string& stop : stops) {
      const std::size_t begin = text.find(stop);
      if (begin == std::string::npos) continue;
      const std::size_t end = begin + stop.size();
      if (end < best_end || (end == best_end && begin < best_begin)) {
        best_end = end;
        best_begin = begin;
      }
    }
    ASSERT_EQ(out, text.substr(0, best_begin));
    ASSERT_EQ(decoder.stop_match().has_value(), best_end != std::string::npos);
  }
}

}  // namespace
}  // namespace kvcrush
