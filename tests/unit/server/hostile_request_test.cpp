// Requests of a few MiB that ask for a hundred times as much memory or time: refused before it is spent.
// Damage of other kinds: tests/fuzz.
#include <gtest/gtest.h>

#include <string>

#include "server/inference_service.h"
#include "server/request_mapper.h"
#include "tests/unit/server/test_models.h"

namespace kvcrush {
namespace {

using test::kPageBytes;

constexpr int kMaxTextBytes = 100 * kPageBytes;  // a context of the longest tokens

void expect_refused(const Status& status, const std::string& start) {
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << "expected: " << start;
  EXPECT_TRUE(status.message().starts_with(start)) << status.message();
}

TEST(HostileRequest, MoreTextThanAContextCanSpell) {
  const MapperContext context = test::mapper_context();
  const std::string longest(kMaxTextBytes, 'x');
  v1::GenerateRequest request;
  request.set_text(longest + "x");
  expect_refused(
      map_generate_request(request, context).status(),
      "text is 409601 bytes long, allowed: at most 409600 (context of 100 tokens, the longest of which "
      "has 4096 bytes)");
  request.set_text(longest);
  expect_refused(map_generate_request(request, context).status(), "text is 409600 tokens long");

  v1::ChatMessage& message = *request.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content(longest);
  expect_refused(map_generate_request(request, context).status(), "chat is 409607 bytes long");

  v1::ScoreRequest score;
  score.set_text("a");
  score.set_continuation_text(longest + "x");
  expect_refused(map_score_request(score, context).status(), "continuation_text is 409601 bytes long");
}

TEST(HostileRequest, MoreMessagesThanAConversationHas) {
  const MapperContext context = test::mapper_context();
  v1::ChatMessages chat;
  for (int i = 0; i < 8192; ++i) chat.add_messages()->set_role("u");
  EXPECT_TRUE(tokenize_chat(chat, context).ok());
  chat.add_messages()->set_role("u");
  expect_refused(tokenize_chat(chat, context).status(),
                 "chat.messages has 8193 messages, allowed: at most 8192");
}

TEST(HostileRequest, MoreOfAChatThanAConversationHas) {
  MapperContext context = test::mapper_context();
  v1::ChatMessages chat;
  chat.add_messages()->set_role("u");
  for (int i = 0; i < 1025; ++i) chat.add_tools("{}");
  expect_refused(tokenize_chat(chat, context).status(), "chat.tools has 1025 entries, allowed: at most 1024");
  chat.clear_tools();
  v1::ChatMessage& message = *chat.mutable_messages(0);
  for (int i = 0; i < 1025; ++i) message.add_content_parts();
  expect_refused(tokenize_chat(chat, context).status(),
                 "chat.messages[0].content_parts has 1025 entries, allowed: at most 1024");
  message.clear_content_parts();
  for (int i = 0; i < 257; ++i) message.add_tool_calls()->set_name("f");
  expect_refused(tokenize_chat(chat, context).status(),
                 "chat.messages[0].tool_calls has 257 entries, allowed: at most 256");
  message.clear_tool_calls();
  chat.set_template_kwargs(std::string((1 << 20) + 1, ' '));
  expect_refused(tokenize_chat(chat, context).status(),
                 "chat.template_kwargs is 1048577 bytes long, allowed: at most 1048576");
  // What many small values take is bounded for all of a chat together.
  chat.set_template_kwargs("{\"a\": [" + std::string(1000, ' ') + "]}");
  std::string lists = "[[]";
  for (int i = 0; i < 340'000; ++i) lists += ",[]";
  for (int i = 0; i < 4; ++i) chat.add_tools("{\"a\": " + lists + "]}");
  expect_refused(tokenize_chat(chat, context).status(), "chat.tools[");
}

TEST(HostileRequest, AnswersMuchLargerThanTheirRequest) {
  const MapperContext context = test::mapper_context();
  v1::TokenizeRequest text;
  v1::TokenizeResponse tokens;
  text.set_text(std::string(1 << 20, 'a'));
  ASSERT_TRUE(tokenize(text, context, tokens).ok());
  EXPECT_EQ(tokens.token_ids_size(), 1 << 20);
  text.set_text(text.text() + "a");
  expect_refused(tokenize(text, context, tokens), "text is 1048577 tokens long, allowed: at most 1048576");

  v1::DetokenizeRequest ids;
  v1::DetokenizeResponse answer;
  for (int i = 0; i < 4096; ++i) ids.add_token_ids(test::kPageToken);
  ASSERT_TRUE(detokenize(ids, *context.tokenizer, answer).ok());
  EXPECT_EQ(answer.text().size(), std::size_t{16} << 20);
  ids.add_token_ids(0);
  expect_refused(detokenize(ids, *context.tokenizer, answer),
                 "token_ids are 16777217 bytes of text, allowed: at most 16777216");
}

// A client could not parse the answer.
TEST(HostileRequest, ModelInfoIsUtf8WhateverTheFileHolds) {
  ServingModel model;
  model.mapper = test::mapper_context();
  model.loaded.tokenizer = model.mapper.tokenizer;
  model.loaded.chat_template = test::plain_template();
  model.loaded.chat_template_source = "a\xFF{{ messages }}";
  v1::GetModelInfoResponse info;
  describe_model(model, ServerConfig(), info);
  EXPECT_EQ(info.chat_template(), "a\uFFFD{{ messages }}");
}

}  // namespace
}  // namespace kvcrush
