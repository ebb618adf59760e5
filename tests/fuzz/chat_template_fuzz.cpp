// A chat template and the messages that it renders: parts of the input with 0x1F between them, the template,
// then role and content of each message.
#include "engine/tokenizer/chat_template.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/jinja/runtime.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"

namespace kvcrush::fuzz {
namespace {

constexpr std::string_view kSeparator = "\x1F";

std::vector<ChatMessage> read_messages(FuzzInput& input, const std::string& mark) {
  std::vector<ChatMessage> messages;
  while (!input.empty()) {
    ChatMessage message;
    message.role = input.until(kSeparator);
    message.content = std::string(input.until(kSeparator)) + mark;
    messages.push_back(std::move(message));
  }
  if (messages.empty()) messages = {{"system", "s" + mark}, {"user", "Hi" + mark}, {"assistant", mark}};
  return messages;
}

struct Outcome {
  bool ok = false;
  bool forged = false;  // message text came out as the template's own
};

// Every content ends with `mark`, which the template is not likely to hold.
Outcome render(const ChatTemplate& chat_template, FuzzInput input, const std::string& mark) {
  const Result<std::vector<PromptPiece>> pieces =
      chat_template.render(read_messages(input, mark), {"<s>", "</s>", true});
  if (!pieces.ok()) {
    KVCRUSH_CHECK(pieces.status().code() == StatusCode::kInvalidArgument);
    KVCRUSH_CHECK(!pieces.status().message().empty());
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
  const fuzz::Outcome first = fuzz::render(**chat_template, input, "<|Qx7|>");
  // A template may spell one mark by itself, hardly the one or the other as the message does.
  if (first.forged) KVCRUSH_CHECK(!fuzz::render(**chat_template, input, "<|Vw4|>").forged);
  return 0;
}
