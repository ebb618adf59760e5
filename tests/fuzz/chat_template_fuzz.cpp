// A chat template and the conversation that it renders: parts of the input with 0x1F between them, the
// template, then pairs of a name and a text. A name that begins with 0x01 says by its second byte what of a
// conversation the text is (see add_part); any other is the role of a message whose content is the text.
#include "engine/tokenizer/chat_template.h"

#include <algorithm>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/jinja/runtime.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"

namespace kvcrush::fuzz {
namespace {

constexpr std::string_view kSeparator = "\x1F";

// Depends on the whole input, so that mutations cannot write it into the template.
std::string mark_of(std::string_view input, std::string_view which) {
  const std::size_t number = std::hash<std::string_view>()(input);
  return "<|" + std::string(which) + std::to_string(number) + "|>";
}

// JSON has the mark wherever the input has an '@': inside strings.
std::string marked_json(std::string_view json, const std::string& mark) {
  std::string text;
  for (const char c : json) {
    if (c == '@') {
      text += mark;
    } else {
      text += c;
    }
  }
  return text;
}

void add_part(char kind, std::string_view text, const std::string& mark, ChatPrompt& prompt) {
  if (prompt.messages.empty()) prompt.messages.push_back({"user", mark});
  ChatMessage& message = prompt.messages.back();
  switch (kind) {
    case 't':
      prompt.tools.push_back(marked_json(text, mark));
      return;
    case 'k':
      prompt.template_kwargs = marked_json(text, mark);
      return;
    case 'g':
      prompt.add_generation_prompt = false;
      return;
    case 'c':
      message.tool_calls.push_back({std::string(text) + mark, mark, marked_json(text, mark)});
      return;
    case 'x':
      message.extra_fields = marked_json(text, mark);
      return;
    case 'p':
      message.content_parts.push_back(std::string(text) + mark);
      return;
    case 'i':
      message.tool_call_id = std::string(text) + mark;
      return;
    case 'n':
      message.name = std::string(text) + mark;
      return;
    default:
      message.reasoning_content = std::string(text) + mark;
  }
}

ChatPrompt read_prompt(FuzzInput& input, const std::string& mark) {
  ChatPrompt prompt;
  while (!input.empty()) {
    const std::string_view name = input.until(kSeparator);
    const std::string_view text = input.until(kSeparator);
    if (name.size() >= 2 && name[0] == '\x01') {
      add_part(name[1], text, mark, prompt);
    } else {
      prompt.messages.push_back({std::string(name), std::string(text) + mark});
    }
  }
  if (prompt.messages.empty())
    prompt.messages = {{"system", "s" + mark}, {"user", "Hi" + mark}, {"assistant", mark}};
  return prompt;
}

struct Outcome {
  bool ok = false;
  bool forged = false;  // message text came out as the template's own
};

void check_refusal(const Status& status) {
  KVCRUSH_CHECK(status.code() == StatusCode::kInvalidArgument);
  KVCRUSH_CHECK(!status.message().empty());
}

// Every text of the prompt ends with `mark`, which the template is not likely to hold.
Outcome render(const ChatTemplate& chat_template, FuzzInput input, const std::string& mark) {
  const Result<ChatVariables> variables = ChatVariables::parse(read_prompt(input, mark));
  if (!variables.ok()) {
    check_refusal(variables.status());
    return {};
  }
  const Result<std::vector<PromptPiece>> pieces = chat_template.render(*variables, {"<s>", "</s>"});
  if (!pieces.ok()) {
    check_refusal(pieces.status());
    return {};
  }
  Outcome outcome{true, false};
  std::size_t num_bytes = 0;
  for (std::size_t i = 0; i < pieces->size(); ++i) {
    const PromptPiece& piece = (*pieces)[i];
    KVCRUSH_CHECK(!piece.text.empty());
    KVCRUSH_CHECK(i == 0 || piece.from_message != (*pieces)[i - 1].from_message);
    num_bytes += piece.text.size();
    outcome.forged = outcome.forged || (!piece.from_message && piece.text.find(mark) != std::string::npos);
  }
  KVCRUSH_CHECK(num_bytes <= jinja::kMaxTextBytes);
  return outcome;
}

}  // namespace
}  // namespace kvcrush::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvcrush;
  fuzz::FuzzInput input(data, size);
  const auto chat_template = ChatTemplate::parse(input.until(fuzz::kSeparator));
  if (!chat_template.ok()) {
    KVCRUSH_CHECK(chat_template.status().code() == StatusCode::kInvalidArgument);
    return 0;
  }
  // A template may come to spell one mark by itself, hardly one and the other.
  const std::string_view whole(reinterpret_cast<const char*>(data), size);
  const fuzz::Outcome first = fuzz::render(**chat_template, input, fuzz::mark_of(whole, "a"));
  if (first.forged) KVCRUSH_CHECK(!fuzz::render(**chat_template, input, fuzz::mark_of(whole, "b")).forged);
  return 0;
}
