#include "engine/tokenizer/utf8.h"

#include <gtest/gtest.h>

#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/incremental_decoder.h"

namespace kvcrush {
namespace {

TEST(Utf8, EveryCodePointRoundTrips) {
  for (std::uint32_t code = 0; code <= 0x10FFFF; ++code) {
    if (code >= 0xD800 && code <= 0xDFFF) continue;
    std::string text;
    utf8::append(text, code);
    const utf8::Step step = utf8::next(text, 0);
    ASSERT_EQ(step.form, utf8::Form::kValid) << code;
    ASSERT_EQ(step.code_point, code);
    ASSERT_EQ(step.num_bytes, text.size());
  }
}

TEST(Utf8, FindsTheFirstBrokenSequence) {
  EXPECT_EQ(utf8::first_error("plain and \xC3\xA4"), std::nullopt);
  EXPECT_EQ(utf8::first_error(""), std::nullopt);
  EXPECT_EQ(utf8::first_error("0123456789\xFF"), 10U);
  EXPECT_EQ(utf8::first_error("\xC0\x80"), 0U);              // overlong
  EXPECT_EQ(utf8::first_error("a\xED\xA0\x80"), 1U);         // surrogate
  EXPECT_EQ(utf8::first_error("ab\xF4\x90\x80\x80"), 2U);    // above U+10FFFF
  EXPECT_EQ(utf8::first_error("\xE2\x82\xAC\xE2\x82"), 3U);  // unfinished
  EXPECT_EQ(utf8::first_error("\xE2\x82\xAC\x80"), 3U);      // stray continuation
  EXPECT_EQ(utf8::first_error(std::string_view("\0a\xFE", 3)), 2U);
}

TEST(Utf8, ReplacesMaximalSubparts) {
  // The example of the Unicode standard, table 3-11.
  EXPECT_EQ(replace_broken_utf8("a\xF1\x80\x80\xE1\x80\xC2"
                                "b\x80"
                                "c\x80\xBF"
                                "d"),
            "a\uFFFD\uFFFD\uFFFD"
            "b\uFFFD"
            "c\uFFFD\uFFFD"
            "d");
  EXPECT_EQ(replace_broken_utf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41");
  EXPECT_EQ(replace_broken_utf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(replace_broken_utf8("ok \xF0\x9F\x98"), "ok \uFFFD");
  EXPECT_EQ(replace_broken_utf8(""), "");
}

TEST(ByteAlphabet, IsOneToOne) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  EXPECT_EQ(bytes_from_alphabet(alphabet_from_bytes(all)), all);
  EXPECT_EQ(alphabet_from_bytes(" a\n"), "\u0120a\u010A");
  EXPECT_EQ(bytes_from_alphabet(" "), std::nullopt);
  EXPECT_EQ(bytes_from_alphabet("\u4E2D"), std::nullopt);
}

}  // namespace
}  // namespace kvcrush
