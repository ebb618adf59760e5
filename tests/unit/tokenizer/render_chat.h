// A conversation rendered in one go, for tests.
#pragma once

#include <utility>
#include <vector>

#include "engine/tokenizer/chat_template.h"

namespace kvcrush::test {

inline Result<std::vector<PromptPiece>> render_chat(const ChatTemplate& chat_template,
                                                    const ChatPrompt& prompt,
                                                    const SpecialTokenTexts& special_tokens = {}) {
  const Result<ChatVariables> variables = ChatVariables::parse(prompt);
  if (!variables.ok()) return variables.status();
  return chat_template.render(*variables, special_tokens);
}

}  // namespace kvcrush::test
