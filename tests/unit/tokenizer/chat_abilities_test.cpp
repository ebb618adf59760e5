#include "engine/tokenizer/chat_abilities.h"

#include <gtest/gtest.h>

#include "tests/unit/tokenizer/sample_templates.h"

namespace kvcrush {
namespace {

ChatAbilities abilities(std::string_view source) {
  const auto chat_template = ChatTemplate::parse(source);
  EXPECT_TRUE(chat_template.ok()) << chat_template.status().message();
  return find_chat_abilities(**chat_template);
}

TEST(ChatAbilities, WhatIsShown) {
  EXPECT_TRUE(abilities(test::kChatMl).system);
  EXPECT_FALSE(abilities(test::kChatMl).tools);
  const ChatAbilities both = abilities("{{ messages }}{{ tools }}");
  EXPECT_TRUE(both.system && both.tools);
  // Left out, or refused.
  EXPECT_FALSE(abilities("{{ messages[-1].content }}").system);
  EXPECT_FALSE(abilities(test::kTurns).system);
}

TEST(ChatAbilities, ToolsOfTheSystemMessageOnly) {
  EXPECT_TRUE(abilities("{% if messages[0].role == 'system' %}{{ tools|tojson }}{% endif %}").tools);
}

TEST(ChatAbilities, RefusedToolsAreUnknown) {
  EXPECT_TRUE(abilities("{% if tools %}{{ raise_exception('which?') }}{% endif %}").tools);
  const ChatAbilities unknown = abilities("{{ raise_exception('never') }}");
  EXPECT_TRUE(unknown.system && unknown.tools);
}

}  // namespace
}  // namespace kvcrush
