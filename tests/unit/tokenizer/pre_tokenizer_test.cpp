#include "engine/tokenizer/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <thread>

namespace kvcrush {
namespace {

using Words = std::vector<std::string>;

Words split(std::string_view name, std::string_view text) {
  const auto pre_tokenizer = PreTokenizer::create(name);
  EXPECT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status().message();
  Words words;
  const Status status =
      (*pre_tokenizer)->split(text, [&](std::string_view word) { words.emplace_back(word); });
  EXPECT_TRUE(status.ok()) << status.message();
  return words;
}

TEST(PreTokenizer, Gpt2) {
  EXPECT_EQ(split("gpt-2", "I'll go  home 12 times!!\n\n ok"),
            (Words{"I", "'ll", " go", " ", " home", " 12", " times", "!!", "\n\n", " ok"}));
  EXPECT_EQ(split("default", "DON'T a   "), (Words{"DON", "'", "T", " a", "   "}));
}

TEST(PreTokenizer, SmollmTakesDigitsOneByOne) {
  EXPECT_EQ(split("smollm", "a 123b"), (Words{"a", " ", "1", "2", "3", "b"}));
  // Before a digit a run of spaces stays whole; before a word its last space goes to the word.
  EXPECT_EQ(split("smollm", "x   7   y"), (Words{"x", "   ", "7", "  ", " y"}));
  EXPECT_EQ(split("smollm", "\u0664\u00BD\u2167"), (Words{"\u0664", "\u00BD", "\u2167"}));
}

TEST(PreTokenizer, Llama3) {
  EXPECT_EQ(split("llama-bpe", "I'LL pay $12345.\n\n  So"),
            (Words{"I", "'LL", " pay", " $", "123", "45", ".\n\n", " ", " So"}));
  EXPECT_EQ(split("llama3", "a \n b"), (Words{"a", " \n", " b"}));
}

TEST(PreTokenizer, Qwen2) {
  EXPECT_EQ(split("qwen2", "x=12 (ok)"), (Words{"x", "=", "1", "2", " (", "ok", ")"}));
}

TEST(PreTokenizer, WordsByCase) {
  EXPECT_EQ(split("tekken", "myHTTPServer's 12 a//\n\nB"),
            (Words{"my", "HTTPServer", "'s", " ", "1", "2", " a", "//\n\n", "B"}));
  EXPECT_EQ(split("gpt-4o", "myHTTPServer's I'LL 1234"),
            (Words{"my", "HTTPServer's", " I'LL", " ", "123", "4"}));
  EXPECT_EQ(split("gpt-4o", "\u4E2D\u6587a\u0301B"), (Words{"\u4E2D\u6587a\u0301", "B"}));
}

TEST(PreTokenizer, UnicodeLettersAndSpaces) {
  EXPECT_EQ(split("gpt-2", "\u00C4pfel\u00A0\u4E2D\u6587"), (Words{"\u00C4pfel", "\u00A0", "\u4E2D\u6587"}));
  // U+180E is no white space any more, U+3000 is.
  EXPECT_EQ(split("gpt-2", "a\u180Eb\u3000c"), (Words{"a", "\u180E", "b", "\u3000", "c"}));
}

TEST(PreTokenizer, NamesWhatItKnows) {
  const auto result = PreTokenizer::create("deepseek-coder");
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(result.status().message().find("'deepseek-coder'"), std::string::npos);
  EXPECT_NE(result.status().message().find("smollm"), std::string::npos);
}

TEST(PreTokenizer, LongRunsOfEveryKindSplit) {
  for (const std::string_view name : {"gpt-2", "smollm", "llama3", "qwen2", "tekken", "gpt-4o"}) {
    for (const std::string_view unit :
         {"a", " ", "\n", "!", "1", "\r\n", "\u00E9", "'s", " \n", "A", "aB", "\u0301"}) {
      std::string text;
      while (text.size() < 1'000'000) text += unit;
      std::size_t num_bytes = 0;
      for (const std::string& word : split(name, text)) num_bytes += word.size();
      EXPECT_EQ(num_bytes, text.size());
    }
  }
}

TEST(PreTokenizer, ThreadsShareIt) {
  const auto pre_tokenizer = *PreTokenizer::create("smollm");
  std::vector<std::thread> threads;
  std::vector<int> counts(4);
  for (int& count : counts) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        const Status status = pre_tokenizer->split("one two 3 four", [&](std::string_view) { ++count; });
        if (!status.ok()) count = -1'000'000;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counts, std::vector<int>(4, 200 * 5));
}

}  // namespace
}  // namespace kvcrush
