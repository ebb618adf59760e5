// Thousands of damaged templates, the same on every run: each is refused or rendered, never a crash, a hang
// or an exception.
#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "engine/tokenizer/chat_template.h"
#include "tests/unit/tokenizer/render_chat.h"
#include "tests/unit/tokenizer/sample_templates.h"

namespace kvcrush {
namespace {

constexpr std::string_view kSources[] = {test::kChatMl, test::kHeaders, test::kTurns, test::kReasoning};
constexpr std::string_view kFragments[] = {"{{",
                                           "}}",
                                           "{%",
                                           "%}",
                                           "{#",
                                           "#}",
                                           "-%}",
                                           "{%-",
                                           "(",
                                           ")",
                                           "[",
                                           "]",
                                           "{",
                                           "}",
                                           "'",
                                           "\"",
                                           "\\",
                                           ",",
                                           ":",
                                           ".",
                                           "|",
                                           "~",
                                           "**",
                                           "//",
                                           "%",
                                           "-",
                                           "not ",
                                           " in ",
                                           " is ",
                                           " if ",
                                           " else ",
                                           " and ",
                                           "9999999999",
                                           "1e308",
                                           "messages",
                                           "loop",
                                           "ns",
                                           "range(9)",
                                           "|length",
                                           "|tojson",
                                           "|list",
                                           "|join",
                                           "|first",
                                           "[::-1]",
                                           "{% for x in messages %}",
                                           "{% endfor %}",
                                           "{% if x %}",
                                           "{% endif %}",
                                           "{% set x = ",
                                           "{% macro m() %}",
                                           "{% endmacro %}",
                                           "{{ m() }}",
                                           "\xFF",
                                           "\xC3",
                                           "\n",
                                           "namespace(a=ns)",
                                           "messages * 99",
                                           "'x' * 99999",
                                           "loop.cycle",
                                           "|map('upper')",
                                           ".split()",
                                           "none"};

std::string mutate(std::string text, std::mt19937& rng) {
  const auto below = [&rng](std::size_t limit) { return limit == 0 ? 0 : rng() % limit; };
  for (std::size_t edits = 1 + below(4); edits > 0; --edits) {
    const std::size_t place = below(text.size() + 1);
    switch (below(5)) {
      case 0:
        text.erase(place, 1 + below(12));
        break;
      case 1:
        text.insert(place, kFragments[below(std::size(kFragments))]);
        break;
      case 2:
        text.insert(place, text.substr(below(text.size() + 1), below(80)));
        break;
      case 3:
        text.insert(place, 1, static_cast<char>(below(256)));
        break;
      default:
        text.replace(place, below(6), kFragments[below(std::size(kFragments))]);
        break;
    }
  }
  return text;
}

TEST(ChatTemplateFuzz, DamagedTemplatesAreRefusedOrRendered) {
  const std::vector<ChatMessage> messages = {{"system", " s\n"},
                                             {"user", "Hi <|im_end|> \xF0\x9F"},
                                             {"assistant", "<think>\nx\n</think>\n\n\u00E4 yes"},
                                             {"user", ""}};
  std::mt19937 rng(20240229);
  int num_rendered = 0;
  int num_refused = 0;
  for (int round = 0; round < 8000; ++round) {
    const std::string source = mutate(std::string(kSources[rng() % std::size(kSources)]), rng);
    const auto start = std::chrono::steady_clock::now();
    const auto chat_template = ChatTemplate::parse(source);
    bool rendered = false;
    if (chat_template.ok())
      rendered =
          test::render_chat(**chat_template, {.messages = messages, .add_generation_prompt = round % 2 == 0},
                            {"<s>", "</s>"})
              .ok();
    ASSERT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60)) << source;
    ++(rendered ? num_rendered : num_refused);
  }
  // The damage is of a size that lets both happen.
  EXPECT_GT(num_rendered, 500);
  EXPECT_GT(num_refused, 2000);
}

TEST(ChatTemplateFuzz, TruncatedTemplatesAreRefusedOrRendered) {
  for (const std::string_view source : kSources) {
    for (std::size_t size = 0; size <= source.size(); ++size) {
      const auto chat_template = ChatTemplate::parse(source.substr(0, size));
      ASSERT_TRUE(size < source.size() || chat_template.ok()) << chat_template.status().message();
      if (chat_template.ok()) static_cast<void>(test::render_chat(**chat_template, {{{"user", "Hi"}}}).ok());
    }
  }
}

}  // namespace
}  // namespace kvcrush
