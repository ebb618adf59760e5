// A conversation as a chat template sees it: messages, tools and further variables.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/core/status.h"

namespace kvcrush {

namespace jinja {
struct Variables;
}  // namespace jinja

struct ChatToolCall {
  std::string id;  // empty: none
  std::string name;
  std::string arguments;  // a JSON object; empty: {}
};

// Empty: the template does not see the key, except role and content, which are always there.
struct ChatMessage {
  std::string role = {};
  std::string content = {};
  std::vector<std::string> content_parts = {};  // not empty: content is a list of parts of type "text"
  std::vector<ChatToolCall> tool_calls = {};
  std::string tool_call_id = {};
  std::string name = {};
  std::string reasoning_content = {};
  std::string extra_fields = {};  // a JSON object of further keys
};

struct ChatPrompt {
  std::vector<ChatMessage> messages;
  std::vector<std::string> tools = {};  // JSON objects, as the template is to see them
  std::string template_kwargs = {};     // a JSON object of further variables; empty: none
  bool add_generation_prompt = true;
};

inline constexpr std::size_t kMaxChatJsonBytes = std::size_t{1} << 20;  // of one JSON document

// The variables of a prompt, its JSON parsed. All text in it is marked as a message's, keys of JSON objects
// included; only roles from a short list are not, because some templates build a special token around them.
class ChatVariables {
 public:
  // INVALID_ARGUMENT naming the field ("tools[1]", "messages[0].tool_calls[2].arguments"), what is wrong, at
  // which byte, and what is allowed, but nothing that the prompt says.
  static Result<ChatVariables> parse(const ChatPrompt& prompt);

  const jinja::Variables& variables() const { return *variables_; }

 private:
  explicit ChatVariables(std::shared_ptr<const jinja::Variables> variables)
      : variables_(std::move(variables)) {}
  std::shared_ptr<const jinja::Variables> variables_;
};

}  // namespace kvcrush
