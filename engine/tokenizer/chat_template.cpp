#include "engine/tokenizer/chat_template.h"

#include <exception>
#include <utility>

#include "engine/tokenizer/jinja/evaluator.h"

namespace kvcrush {
namespace {

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

Result<std::vector<PromptPiece>> ChatTemplate::render(const ChatVariables& variables,
                                                      const SpecialTokenTexts& special_tokens) const {
  try {
    jinja::Variables values = variables.variables();
    const std::pair<const char*, const std::string*> tokens[] = {{"bos_token", &special_tokens.bos},
                                                                 {"eos_token", &special_tokens.eos},
                                                                 {"unk_token", &special_tokens.unknown},
                                                                 {"pad_token", &special_tokens.padding}};
    for (const auto& [name, text] : tokens) {
      if (!text->empty()) values.by_name[name] = jinja::make_text(*text);
    }
    jinja::Runtime runtime;
    jinja::Evaluator evaluator(runtime);
    return to_pieces(evaluator.render(impl_->body, values));
  } catch (const std::exception& error) {
    return invalid_argument(std::string("chat template: ") + error.what());
  }
}

}  // namespace kvcrush
