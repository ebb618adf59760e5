// Splits text into the words within which byte pairs are merged. One regular expression per family of models.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "engine/core/status.h"

namespace kvcrush {

class PreTokenizer {
 public:
  // `name` as GGUF's tokenizer.ggml.pre has it. INVALID_ARGUMENT: unknown name.
  static Result<std::shared_ptr<const PreTokenizer>> create(std::string_view name);
  ~PreTokenizer();
  PreTokenizer(const PreTokenizer&) = delete;
  PreTokenizer& operator=(const PreTokenizer&) = delete;

  // Calls `on_word` for consecutive words that together are all of `text`, which must be valid UTF-8.
  // INTERNAL: the regular expression engine gave up.
  Status split(std::string_view text, const std::function<void(std::string_view)>& on_word) const;

 private:
  struct Regex;
  explicit PreTokenizer(std::unique_ptr<Regex> regex);
  std::unique_ptr<Regex> regex_;
};

}  // namespace kvcrush
