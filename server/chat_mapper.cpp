#include <spdlog/fmt/fmt.h>

#include <span>
#include <string>
#include <utility>

#include "server/request_parts.h"

namespace kvcrush {
namespace {

// What is short on the wire takes a hundred times its memory here.
constexpr int kMaxMessages = 8192;
constexpr int kMaxTools = 1024;
constexpr int kMaxToolCalls = 256;  // of one message
constexpr int kMaxContentParts = 1024;

Status check_count(const std::string& field, std::string_view what, int count, int most) {
  if (count <= most) return {};
  return invalid_argument(fmt::format("{} has {} {}, allowed: at most {}", field, count, what, most));
}

Status map_tool_calls(const v1::ChatMessage& wire, const std::string& field, ChatMessage& message) {
  KVCRUSH_RETURN_IF_ERROR(
      check_count(field + ".tool_calls", "entries", wire.tool_calls_size(), kMaxToolCalls));
  for (int i = 0; i < wire.tool_calls_size(); ++i) {
    const v1::ToolCall& call = wire.tool_calls(i);
    if (call.name().empty()) {
      return invalid_argument(
          fmt::format("{}.tool_calls[{}].name is empty, allowed: the name of a function", field, i));
    }
    message.tool_calls.push_back({call.id(), call.name(), call.arguments()});
  }
  return {};
}

Result<ChatMessage> map_message(const v1::ChatMessage& wire, const std::string& field) {
  if (wire.role().empty()) {
    return invalid_argument(fmt::format(
        "{}.role is empty, allowed: \"system\", \"user\", \"assistant\", \"tool\" or another that "
        "the template accepts",
        field));
  }
  if (!wire.content().empty() && wire.content_parts_size() > 0) {
    return invalid_argument(
        fmt::format("{}.content is {} bytes long beside {} content_parts, allowed: one of the two", field,
                    wire.content().size(), wire.content_parts_size()));
  }
  KVCRUSH_RETURN_IF_ERROR(
      check_count(field + ".content_parts", "entries", wire.content_parts_size(), kMaxContentParts));
  ChatMessage message{wire.role(), wire.content()};
  for (const v1::ContentPart& part : wire.content_parts()) message.content_parts.push_back(part.text());
  KVCRUSH_RETURN_IF_ERROR(map_tool_calls(wire, field, message));
  message.tool_call_id = wire.tool_call_id();
  message.name = wire.name();
  message.reasoning_content = wire.reasoning_content();
  message.extra_fields = wire.extra_fields();
  return message;
}

Result<ChatPrompt> map_chat(const v1::ChatMessages& wire, const MapperContext& context) {
  if (wire.messages_size() == 0)
    return invalid_argument("chat.messages is empty, allowed: at least one message");
  KVCRUSH_RETURN_IF_ERROR(check_count("chat.messages", "messages", wire.messages_size(), kMaxMessages));
  KVCRUSH_RETURN_IF_ERROR(check_count("chat.tools", "entries", wire.tools_size(), kMaxTools));
  if (wire.tools_size() > 0 && !context.chat_abilities.tools) {
    return invalid_argument(
        fmt::format("chat.tools has {} entries, allowed: none (the chat template has no place for them; the "
                    "server's --chat-template names another)",
                    wire.tools_size()));
  }
  ChatPrompt prompt;
  prompt.messages.reserve(static_cast<std::size_t>(wire.messages_size()));
  for (int i = 0; i < wire.messages_size(); ++i) {
    Result<ChatMessage> message = map_message(wire.messages(i), fmt::format("chat.messages[{}]", i));
    KVCRUSH_RETURN_IF_ERROR(message.status());
    prompt.messages.push_back(std::move(message).value());
  }
  prompt.tools.assign(wire.tools().begin(), wire.tools().end());
  prompt.template_kwargs = wire.template_kwargs();
  if (wire.has_add_generation_prompt()) prompt.add_generation_prompt = wire.add_generation_prompt();
  return prompt;
}

SpecialTokenTexts special_token_texts(const TokenizerSpec& spec) {
  const auto text = [&spec](TokenId id) { return id < 0 ? "" : spec.tokens[static_cast<std::size_t>(id)]; };
  return {text(spec.bos_id), text(spec.eos_id), text(spec.unknown_id), text(spec.padding_id)};
}

}  // namespace

Result<TokenizedPrompt> tokenize_chat(const v1::ChatMessages& chat, const MapperContext& context) {
  if (context.chat_template == nullptr) {
    return Status(StatusCode::kFailedPrecondition, "chat is not available: " + context.no_chat_reason);
  }
  const Result<ChatPrompt> given = map_chat(chat, context);
  KVCRUSH_RETURN_IF_ERROR(given.status());
  const Result<ChatVariables> variables = ChatVariables::parse(*given);
  if (!variables.ok()) return Status(variables.status().code(), "chat." + variables.status().message());
  const Result<std::vector<PromptPiece>> pieces =
      context.chat_template->render(*variables, special_token_texts(context.tokenizer->spec()));
  if (!pieces.ok()) return in_field("chat", pieces.status());
  std::size_t num_bytes = 0;
  for (const PromptPiece& piece : *pieces) num_bytes += piece.text.size();
  KVCRUSH_RETURN_IF_ERROR(check_text_bytes("chat", num_bytes, context));
  Result<std::vector<TokenId>> ids = context.tokenizer->encode(std::span<const PromptPiece>(*pieces));
  if (!ids.ok()) return in_field("chat", ids.status());
  TokenizedPrompt prompt{std::move(ids).value(), {}};
  for (const PromptPiece& piece : *pieces) prompt.rendered += piece.text;
  return prompt;
}

}  // namespace kvcrush
