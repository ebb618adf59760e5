#include "engine/tokenizer/nfc.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace kvcrush {
namespace {

std::string composed(std::string_view text) {
  return compose_nfc(text).value_or(std::string(text));
}

TEST(Nfc, ComposesMarksInTheirOrder) {
  EXPECT_EQ(composed("e\u0301"), "\u00E9");
  EXPECT_EQ(composed("\u0061\u0323\u0302"), "\u1EAD");
  EXPECT_EQ(composed("\u0061\u0302\u0323"), "\u1EAD");  // the lower mark comes first, however it was typed
  EXPECT_EQ(composed("\u212B"), "\u00C5");
  EXPECT_EQ(composed("\u1112\u1161\u11AB"), "\uD55C");
  EXPECT_EQ(composed("\u0958"), "\u0915\u093C");  // excluded from composition
}

TEST(Nfc, LeavesComposedTextAlone) {
  EXPECT_FALSE(compose_nfc("plain, caf\u00E9").has_value());
  EXPECT_FALSE(compose_nfc("").has_value());
  EXPECT_EQ(composed("\u4E2D\U0001F600"), "\u4E2D\U0001F600");
}

TEST(Nfc, LongRunsOfMarksAreNotQuadratic) {
  std::string text = "a";
  for (int i = 0; i < 300'000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0323";
  const auto start = std::chrono::steady_clock::now();
  const std::string result = composed(text);
  EXPECT_LT(std::chrono::steady_clock::now() - start,
            std::chrono::seconds(20));  // swapping neighbours takes hours
  EXPECT_TRUE(result.starts_with("\u1EA1\u0323"));
  EXPECT_TRUE(result.ends_with("\u0301"));
}

}  // namespace
}  // namespace kvcrush
