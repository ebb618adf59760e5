#include "engine/tokenizer/chat_abilities.h"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

namespace kvcrush {
namespace {

constexpr const char* kSystemText = "kvcrush-system-text";
constexpr const char* kToolName = "kvcrush_tool_name";

// Whether `wanted` shows up; nothing where the template refuses the prompt.
std::optional<bool> shows(const ChatTemplate& chat_template, const ChatPrompt& prompt,
                          std::string_view wanted) {
  const Result<ChatVariables> variables = ChatVariables::parse(prompt);
  if (!variables.ok()) return std::nullopt;
  const auto pieces = chat_template.render(*variables, {"<s>", "</s>", "<unk>", "<pad>"});
  if (!pieces.ok()) return std::nullopt;
  std::string text;
  for (const PromptPiece& piece : *pieces) text += piece.text;
  return text.find(wanted) != std::string::npos;
}

ChatPrompt prompt_of(bool with_system, bool with_tool) {
  ChatPrompt prompt;
  if (with_system) prompt.messages.push_back({"system", kSystemText});
  prompt.messages.push_back({"user", "Hello"});
  if (with_tool) {
    prompt.tools.push_back(std::string(R"({"type": "function", "function": {"name": ")") + kToolName +
                           R"(", "description": "Does nothing.", "parameters": {"type": "object", )"
                           R"("properties": {"value": {"type": "string", "description": "Any."}}, )"
                           R"("required": ["value"]}}})");
  }
  return prompt;
}

}  // namespace

ChatAbilities find_chat_abilities(const ChatTemplate& chat_template) {
  const std::optional<bool> alone = shows(chat_template, prompt_of(false, false), "");
  ChatAbilities abilities;
  // A refusal of the system message counts where the rest is accepted.
  abilities.system = shows(chat_template, prompt_of(true, false), kSystemText).value_or(!alone.has_value());
  const std::optional<bool> trials[] = {shows(chat_template, prompt_of(false, true), kToolName),
                                        shows(chat_template, prompt_of(true, true), kToolName)};
  const bool accepted =
      std::any_of(std::begin(trials), std::end(trials), [](const auto& trial) { return trial.has_value(); });
  const bool shown = std::any_of(std::begin(trials), std::end(trials),
                                 [](const auto& trial) { return trial.value_or(false); });
  abilities.tools = shown || !accepted;
  return abilities;
}

}  // namespace kvcrush
