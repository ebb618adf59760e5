#include "engine/tokenizer/chat_prompt.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/unit/tokenizer/render_chat.h"

namespace kvcrush {
namespace {

// What came out of the prompt stands in [[ ]].
std::string marked(std::string_view source, const ChatPrompt& prompt) {
  const auto chat_template = ChatTemplate::parse(source);
  EXPECT_TRUE(chat_template.ok()) << chat_template.status().message();
  const auto pieces = test::render_chat(**chat_template, prompt, {"<bos>", ""});
  EXPECT_TRUE(pieces.ok()) << pieces.status().message();
  std::string text;
  if (pieces.ok())
    for (const PromptPiece& piece : *pieces)
      text += piece.from_message ? "[[" + piece.text + "]]" : piece.text;
  return text;
}

std::string refusal(const ChatPrompt& prompt) {
  const auto variables = ChatVariables::parse(prompt);
  EXPECT_EQ(variables.status().code(), StatusCode::kInvalidArgument);
  return variables.status().message();
}

ChatPrompt with_tool(const std::string& tool) {
  return {{{"user", "Hi"}}, {tool}};
}

TEST(ChatPrompt, ToolsKeepTheirOrderAndAreMarked) {
  EXPECT_EQ(marked("{{ tools|tojson }}",
                   with_tool(R"({"b": 1, "a": [true, null, -0.5, 1e2], "a<|x|>": {"c": "d\n"}})")),
            R"([{"[[b]]": 1, "[[a]]": [true, null, -0.5, 100.0], "[[a<|x|>]]": {"[[c]]": "[[d\n]]"}}])");
  EXPECT_EQ(marked("{{ tools is none }}{{ documents is none }}", {{{"user", "Hi"}}}), "TrueTrue");
}

TEST(ChatPrompt, EqualKeysOfAnObjectLeaveTheLast) {
  EXPECT_EQ(marked("{{ tools[0]|tojson }}", with_tool(R"({"a": 1, "b": 2, "a": 3})")),
            R"({"[[a]]": 3, "[[b]]": 2})");
}

TEST(ChatPrompt, MessagesHaveOnlyTheKeysThatAreGiven) {
  ChatMessage call{"assistant"};
  call.reasoning_content = "why";
  call.tool_calls = {{"id1", "look", R"({"at": "it"})"}, {"", "wait", ""}};
  ChatMessage result{"tool", "seen"};
  result.tool_call_id = "id1";
  result.name = "look";
  result.extra_fields = R"({"more": [1]})";
  const std::string text =
      marked("{% for m in messages %}{{ m|tojson }}\n{% endfor %}", {{call, result, {"x"}}});
  EXPECT_EQ(
      text,
      R"({"role": "assistant", "content": "", "reasoning_content": "[[why]]", "tool_calls": [{"id": "[[id1]]", )"
      R"("type": "function", "function": {"name": "[[look]]", "arguments": {"[[at]]": "[[it]]"}}}, )"
      R"({"type": "function", "function": {"name": "[[wait]]", "arguments": {}}}]})"
      "\n"
      R"({"role": "tool", "content": "[[seen]]", "tool_call_id": "[[id1]]", "name": "[[look]]", "[[more]]": [1]})"
      "\n"
      R"({"role": "[[x]]", "content": ""})"
      "\n");
}

TEST(ChatPrompt, ContentInParts) {
  ChatMessage message{"user"};
  message.content_parts = {"a", "b"};
  EXPECT_EQ(marked("{% for p in messages[0].content %}{{ p.type }}:{{ p.text }};{% endfor %}", {{message}}),
            "text:[[a]];text:[[b]];");
}

TEST(ChatPrompt, VariablesOfTheRequest) {
  ChatPrompt prompt{
      {{"user", "Hi"}}, {}, R"({"enable_thinking": false, "date": "now", "documents": [{"t": 1}]})"};
  EXPECT_EQ(
      marked("{{ enable_thinking }} {{ date }} {{ documents[0].t }} {{ add_generation_prompt }}", prompt),
      "False [[now]] 1 True");
  prompt.add_generation_prompt = false;
  EXPECT_EQ(marked("{{ add_generation_prompt }}", prompt), "False");
  // Where a request may name what the template calls, it can at most make it fail.
  prompt.template_kwargs = R"({"raise_exception": "x"})";
  const auto chat_template = ChatTemplate::parse("{{ raise_exception('no') }}");
  EXPECT_FALSE(test::render_chat(**chat_template, prompt).ok());
}

TEST(ChatPrompt, SpecialTokensThatAreNotThereAreUndefined) {
  EXPECT_EQ(marked("{{ bos_token }}{{ eos_token is defined }}{{ unk_token is defined }}", {{{"user", "Hi"}}}),
            "<bos>FalseFalse");
}

TEST(ChatPrompt, BadJsonNamesFieldAndByte) {
  EXPECT_EQ(refusal(with_tool(R"({"a": 1,})")),
            R"(tools[0] stops being JSON at byte 8, allowed: a JSON object)");
  EXPECT_EQ(refusal(with_tool(R"({"a": )")),
            "tools[0] stops being JSON at byte 6, its end, allowed: a JSON object");
  EXPECT_EQ(refusal(with_tool("")), "tools[0] stops being JSON at byte 0, its end, allowed: a JSON object");
  EXPECT_EQ(refusal(with_tool("[1]")), "tools[0] is a list, allowed: a JSON object");
  EXPECT_EQ(refusal(with_tool("{} {}")).substr(0, 35), "tools[0] stops being JSON at byte 3");
  EXPECT_EQ(refusal(with_tool("{\"a\": \"\xFF\"}")).substr(0, 35), "tools[0] stops being JSON at byte 7");
  ChatMessage call{"assistant"};
  call.tool_calls = {{"", "f", "{}"}, {"", "f", "5"}};
  EXPECT_EQ(refusal({{{"user", "Hi"}, call}}),
            "messages[1].tool_calls[1].arguments is an integer, allowed: a JSON object");
  EXPECT_EQ(refusal({{{"user", "Hi"}}, {}, "nul"}),
            "template_kwargs stops being JSON at byte 3, its end, allowed: a JSON object");
}

TEST(ChatPrompt, NumbersThatTheTemplateCouldNotShowAreRefused) {
  EXPECT_EQ(refusal(with_tool(R"({"a": 9223372036854775808})")),
            "tools[0] holds an integer of more than 64 bits, allowed: a JSON object");
  EXPECT_NE(refusal(with_tool(R"({"a": 123456789012345678901234567890})")).find("more than 64 bits"),
            std::string::npos);
  EXPECT_EQ(marked("{{ tools[0].a }}{{ tools[0].b }}",
                   with_tool(R"({"a": 9223372036854775807, "b": -9223372036854775808})")),
            "9223372036854775807-9223372036854775808");
}

TEST(ChatPrompt, KeysThatTheRequestHasFieldsFor) {
  EXPECT_NE(
      refusal({{{"user", "Hi"}}, {}, R"({"messages": []})"}).find("template_kwargs has the key \"messages\""),
      std::string::npos);
  ChatMessage message{"user"};
  message.extra_fields = R"({"a": 1, "content": "x"})";
  EXPECT_NE(refusal({{message}}).find("messages[0].extra_fields has the key \"content\""), std::string::npos);
}

TEST(ChatPrompt, HostileJsonIsRefusedSoon) {
  EXPECT_NE(refusal(with_tool("{\"a\":" + std::string(100'000, '['))).find("nested more than"),
            std::string::npos);
  EXPECT_NE(refusal(with_tool(std::string(kMaxChatJsonBytes + 1, ' '))).find("allowed: at most 1048576"),
            std::string::npos);
  std::string keys = "{\"a\":0";
  for (int i = 0; i < 60'000; ++i) keys += ",\"" + std::to_string(i) + "\":0";
  EXPECT_NE(refusal(with_tool(keys + "}")).find("holds too much with what comes before it"),
            std::string::npos);
  std::string lists = "{\"a\":[[]";
  for (int i = 0; i < 340'000; ++i) lists += ",[]";
  ChatPrompt many = with_tool(lists + "]}");
  for (int i = 0; i < 5; ++i) many.tools.push_back(many.tools[0]);
  EXPECT_NE(refusal(many).find("holds too much with what comes before it"), std::string::npos);
}

}  // namespace
}  // namespace kvcrush
