#include "engine/core/readable.h"

#include <gtest/gtest.h>

namespace kvcrush {
namespace {

TEST(Readable, PrintableTextStaysAsItIs) {
  EXPECT_EQ(readable(""), "");
  EXPECT_EQ(readable("blk.0.attn_q.weight ~"), "blk.0.attn_q.weight ~");
  EXPECT_EQ(in_quotes("llama"), "'llama'");
}

TEST(Readable, OtherBytesAreEscaped) {
  EXPECT_EQ(readable("\x1B[31m\n\x7F\xC3\xA4"), "\\x1b[31m\\x0a\\x7f\\xc3\\xa4");
  EXPECT_EQ(in_quotes(std::string_view("a\0b", 3)), "'a\\x00b'");
}

TEST(Readable, LongTextIsCut) {
  EXPECT_EQ(readable(std::string(80, 'x')), std::string(80, 'x'));
  EXPECT_EQ(readable(std::string(1'000'000, 'x')), std::string(80, 'x') + "...");
  EXPECT_LT(readable(std::string(1'000'000, '\xFF')).size(), 100u);
}

}  // namespace
}  // namespace kvcrush
