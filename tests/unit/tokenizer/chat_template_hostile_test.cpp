// Templates that a hostile model file may carry: each small, each after time or memory that its size does not
// show. All are refused, or rendered as fast as any.
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/chat_template.h"
#include "tests/unit/tokenizer/render_chat.h"

namespace kvcrush {
namespace {

class HostileTemplate : public testing::Test {
 protected:
  void TearDown() override {
    // Minutes to days, were the work not counted; seconds allow for sanitizers and busy machines.
    EXPECT_LT(std::chrono::steady_clock::now() - start_, std::chrono::seconds(60));
  }

  static Result<std::vector<PromptPiece>> render(std::string_view source,
                                                 const std::string& content = "hello") {
    const auto chat_template = ChatTemplate::parse(source);
    if (!chat_template.ok()) return chat_template.status();
    return test::render_chat(**chat_template, {{{"user", content}}});
  }

  static void expect_refused(std::string_view source, std::string_view why,
                             const std::string& content = "hello") {
    const auto pieces = render(source, content);
    ASSERT_FALSE(pieces.ok()) << why;
    EXPECT_EQ(pieces.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(pieces.status().message().find(why), std::string::npos) << pieces.status().message();
  }

  // 90,000 times.
  static std::string looped(const std::string& statements) {
    return "{% for i in range(90000) %}" + statements + "{% endfor %}";
  }

  static std::string listed(int count, const std::string& separator, const std::string& prefix) {
    std::string list;
    for (int i = 0; i < count; ++i) list += (i > 0 ? separator : "") + prefix + std::to_string(i);
    return list;
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

constexpr const char* kLongText = "{% set x = ('a' * 1000) * 30000 %}";

TEST_F(HostileTemplate, FiltersThatApplyThemselves) {
  std::string names;
  for (int i = 0; i < 100'000; ++i) names += "'map',";
  expect_refused("{{ 'x'|map(" + names + ")|list }}", "too many arguments");
  expect_refused("{{ 'x'|map(" + names.substr(0, 6 * 250) + ")|list }}", "map() needs the argument");
  // Each macro goes a few levels down before the filters do.
  expect_refused("{% macro f(n) %}{{ f(n - 1) if n > 0 else 'x'|map(" + names.substr(0, 6 * 250) +
                     ")|list }}{% endmacro %}{{ f(20) }}",
                 "recurses too deep");
}

TEST_F(HostileTemplate, CopiesOfLists) {
  const std::string list = "{% set x = range(90000)|list %}";
  for (const std::string copy : {"x|list", "x|reverse", "x[:]", "x + []"}) {
    expect_refused(list + looped("{% set n = namespace(a=" + copy + ") %}"), "steps");
  }
}

TEST_F(HostileTemplate, LongDicts) {
  expect_refused("{% set x = {" + listed(20'000, ":0,", "") + ":0} %}", "steps");
  const std::string dict = "{% set x = {" + listed(2000, ":0,", "") + ":0} %}";
  EXPECT_TRUE(render(dict).ok());
  for (const std::string use :
       {"x[-1]", "x.get(-1)", "x.values()", "x|list", "x == x", "x.keys()", "x is eq x", "[x] == [x]"}) {
    expect_refused(dict + looped("{% set y = " + use + " %}"), "steps");
  }
  // Keys of equal length that differ at their end.
  expect_refused("{% set x = 'a' * 1000000 %}{% set k = {x ~ 1: 1, x ~ 2: 2, x ~ 3: 3, x ~ 4: 4} %}" +
                     looped("{% set y = k[x ~ 5] %}"),
                 "too much text");
}

TEST_F(HostileTemplate, LongCalls) {
  expect_refused("{{ dict(" + listed(50'000, "=0,", "a") + "=0) }}", "too many arguments");
  expect_refused("{% macro f(" + listed(50'000, ",", "a") + ") %}{% endmacro %}", "too many parameters");
}

TEST_F(HostileTemplate, LongTextsThatAreLookedAtOrCopied) {
  for (const std::string use :
       {"x.count('')", "'a'.split(x)", "'a'.strip(x)", "x|indent(x)", "namespace({x: 1})"}) {
    expect_refused(kLongText + looped("{% set y = " + use + " %}"), "too much text");
  }
  // What is not there is named in messages only.
  EXPECT_TRUE(render(kLongText + looped("{% set y = {}[x] %}")).ok());
}

// Every character of the one is looked for in all of the other, where many begin with the same byte.
TEST_F(HostileTemplate, StripOfManyCharacters) {
  const auto pieces = render("{{ ('\u00F6' * 300000).strip('\u00E4' * 300000 ~ '\u00F6') }}.");
  ASSERT_TRUE(pieces.ok()) << pieces.status().message();
  EXPECT_EQ((*pieces)[0].text, ".");
}

// A mark takes more memory than the character that it is for.
TEST_F(HostileTemplate, MarksCountAsMemory) {
  const std::string text = "{% set x = messages[0].content|list|join('-') %}{% set n = namespace(l=[]) %}";
  expect_refused(text + "{% for i in range(60) %}{% set n.l = n.l + [x ~ x] %}{% endfor %}", "too much text",
                 std::string(200'000, 'c'));
}

TEST_F(HostileTemplate, DateFormatsCannotLaunderMessages) {
  const auto pieces = render("{{ strftime_now(messages[0].content) }}", "<|im_end|>");
  ASSERT_TRUE(pieces.ok()) << pieces.status().message();
  ASSERT_EQ(pieces->size(), 1u);
  EXPECT_EQ((*pieces)[0].text, "<|im_end|>");
  EXPECT_TRUE((*pieces)[0].from_message);
}

}  // namespace
}  // namespace kvcrush
