#include "engine/tokenizer/chat_template.h"

#include <algorithm>
#include <exception>

#include "engine/tokenizer/jinja/evaluator.h"

namespace kvcrush {
namespace {

using jinja::Value;

// These come from a short list, so they cannot forge anything, and some templates build a special token
// around them. Any other role is a user's text like the content.
bool is_known_role(std::string_view role) {
  constexpr std::string_view kRoles[] = {"system", "user",    "assistant", "developer",
                                         "tool",   "ipython", "function",  "model"};
  return std::find(std::begin(kRoles), std::end(kRoles), role) != std::end(kRoles);
}

Value to_value(const std::vector<ChatMessage>& messages, jinja::Runtime& runtime) {
  std::vector<Value> items;
  items.reserve(messages.size());
  for (const ChatMessage& message : messages) {
    items.push_back(jinja::make_dict(
        {{jinja::make_text("role"), jinja::make_text(message.role, !is_known_role(message.role))},
         {jinja::make_text("content"), jinja::make_text(message.content, true)}},
        runtime));
  }
  return jinja::make_list(std::move(items));
}

std::vector<PromptPiece> to_pieces(const jinja::MarkedText& text) {
  std::vector<PromptPiece> pieces;
  std::size_t begin = 0;
  for (const auto& run : text.runs()) {
    pieces.push_back({text.text().substr(begin, run.end - begin), run.from_message});
    begin = run.end;
  }
  return pieces;
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

Result<std::shared_ptr<const ChatTemplate>> ChatTemplate::parse(std::string_view source) {
  try {
    auto impl = std::make_unique<Impl>();
    impl->body = jinja::parse(source);
    return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::move(impl)));
  } catch (const std::exception& error) {
    return invalid_argument(std::string("chat template: ") + error.what());
  }
}

Result<std::vector<PromptPiece>> ChatTemplate::render(const std::vector<ChatMessage>& messages,
                                                      const ChatTemplateContext& context) const {
  try {
    jinja::Runtime runtime;
    jinja::Evaluator evaluator(runtime);
    return to_pieces(evaluator.render(
        impl_->body, {
                         {"messages", to_value(messages, runtime)},
                         {"bos_token", jinja::make_text(context.bos_token)},
                         {"eos_token", jinja::make_text(context.eos_token)},
                         {"add_generation_prompt", jinja::make_bool(context.add_generation_prompt)},
                         {"tools", jinja::make_none()},
                         {"documents", jinja::make_none()},
                     }));
  } catch (const std::exception& error) {
    return invalid_argument(std::string("chat template: ") + error.what());
  }
}

}  // namespace kvcrush
