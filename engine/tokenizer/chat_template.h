// Renders chat messages with the model's own Jinja template: a small, sandboxed subset of Jinja. No file or
// environment access; recursion, output size and loop steps are bounded.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/status.h"
#include "engine/tokenizer/chat_prompt.h"

namespace kvcrush {

// A stretch of rendered prompt. Text that came out of a message is marked, so that the tokenizer treats
// special tokens spelled in it as plain text: a user must not be able to forge the end of a turn.
struct PromptPiece {
  std::string text;
  bool from_message = false;
};

// Spellings, as the template's variables bos_token, eos_token, unk_token and pad_token. Empty: there is none,
// and the variable is undefined.
struct SpecialTokenTexts {
  std::string bos = {};
  std::string eos = {};
  std::string unknown = {};
  std::string padding = {};
};

class ChatTemplate {
 public:
  // INVALID_ARGUMENT with line and what was not understood.
  static Result<std::shared_ptr<const ChatTemplate>> parse(std::string_view source);
  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  // INVALID_ARGUMENT: the template raised an exception (its message is passed on) or broke a limit.
  Result<std::vector<PromptPiece>> render(const ChatVariables& variables,
                                          const SpecialTokenTexts& special_tokens) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvcrush
