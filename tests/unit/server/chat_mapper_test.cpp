#include <gtest/gtest.h>

#include <string>

#include "server/request_mapper.h"
#include "tests/unit/server/test_models.h"

namespace kvcrush {
namespace {

MapperContext context_with(std::string_view source) {
  MapperContext context = test::mapper_context();
  context.limits.max_context_tokens = 1000;
  context.chat_template = ChatTemplate::parse(source).value();
  context.chat_abilities = find_chat_abilities(*context.chat_template);
  return context;
}

const MapperContext& all_as_json() {
  static const MapperContext context =
      context_with("{{ messages|tojson }} {{ tools|tojson }} {{ add_generation_prompt }} {{ x }}");
  return context;
}

v1::ChatMessages one_message(const std::string& role = "user", const std::string& content = "hi") {
  v1::ChatMessages chat;
  chat.add_messages()->set_role(role);
  chat.mutable_messages(0)->set_content(content);
  return chat;
}

std::string rendered(const v1::ChatMessages& chat, const MapperContext& context = all_as_json()) {
  const Result<TokenizedPrompt> prompt = tokenize_chat(chat, context);
  EXPECT_TRUE(prompt.ok()) << prompt.status().message();
  return prompt.ok() ? prompt->rendered : "";
}

void expect_refused(const v1::ChatMessages& chat, const std::string& message,
                    const MapperContext& context = all_as_json()) {
  const Status status = tokenize_chat(chat, context).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), message);
}

TEST(ChatMapper, EveryFieldReachesTheTemplate) {
  v1::ChatMessages chat = one_message();
  EXPECT_EQ(rendered(chat), R"([{"role": "user", "content": "hi"}] null True )");
  v1::ChatMessage& call = *chat.add_messages();
  call.set_role("assistant");
  call.set_reasoning_content("hm");
  v1::ToolCall& tool_call = *call.add_tool_calls();
  tool_call.set_id("7");
  tool_call.set_name("f");
  tool_call.set_arguments(R"({"b": 1, "a": 2.0})");
  v1::ChatMessage& result = *chat.add_messages();
  result.set_role("tool");
  result.set_tool_call_id("7");
  result.set_name("f");
  result.add_content_parts()->set_text("p");
  result.set_extra_fields(R"({"k": null})");
  chat.add_tools(R"({"z": [1]})");
  chat.set_add_generation_prompt(false);
  chat.set_template_kwargs(R"({"x": "y"})");
  EXPECT_EQ(
      rendered(chat),
      R"([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "reasoning_content": "hm", )"
      R"("tool_calls": [{"id": "7", "type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": 2.0}}}]}, )"
      R"({"role": "tool", "content": [{"type": "text", "text": "p"}], "tool_call_id": "7", "name": "f", "k": null}] )"
      R"([{"z": [1]}] False y)");
}

TEST(ChatMapper, SpecialTokensInToolsStayText) {
  v1::ChatMessages chat = one_message();
  chat.add_tools(R"({"<|end|>": "<|end|>"})");
  chat.set_template_kwargs(R"({"x": "<|end|>"})");
  const Result<TokenizedPrompt> prompt = tokenize_chat(chat, all_as_json());
  ASSERT_TRUE(prompt.ok()) << prompt.status().message();
  EXPECT_EQ(prompt->token_ids, test::bytes_of(prompt->rendered));
}

TEST(ChatMapper, BadJsonNamesItsFieldAndByte) {
  v1::ChatMessages chat = one_message();
  chat.add_tools("{}");
  chat.add_tools("{\"a\": }");
  expect_refused(chat, "chat.tools[1] stops being JSON at byte 6, allowed: a JSON object");
  chat.set_tools(1, "[]");
  expect_refused(chat, "chat.tools[1] is a list, allowed: a JSON object");
  chat.clear_tools();
  chat.mutable_messages(0)->add_tool_calls()->set_name("f");
  chat.mutable_messages(0)->mutable_tool_calls(0)->set_arguments("secret");
  expect_refused(
      chat, "chat.messages[0].tool_calls[0].arguments stops being JSON at byte 0, allowed: a JSON object");
  chat = one_message();
  chat.set_template_kwargs(R"({"tools": []})");
  expect_refused(
      chat,
      "chat.template_kwargs has the key \"tools\", allowed: keys other than what the request's own "
      "fields and the tokenizer set");
}

TEST(ChatMapper, FieldsThatExcludeEachOther) {
  v1::ChatMessages chat = one_message();
  chat.mutable_messages(0)->add_content_parts()->set_text("p");
  expect_refused(chat,
                 "chat.messages[0].content is 2 bytes long beside 1 content_parts, allowed: one of the two");
  chat = one_message("assistant", "");
  chat.mutable_messages(0)->add_tool_calls();
  expect_refused(chat, "chat.messages[0].tool_calls[0].name is empty, allowed: the name of a function");
}

TEST(ChatMapper, ToolsThatTheTemplateWouldNotShowAreRefused) {
  v1::ChatMessages chat = one_message();
  chat.add_tools("{}");
  expect_refused(
      chat,
      "chat.tools has 1 entries, allowed: none (the chat template has no place for them; the server's "
      "--chat-template names another)",
      context_with("{{ messages[0].content }}"));
}

}  // namespace
}  // namespace kvcrush
