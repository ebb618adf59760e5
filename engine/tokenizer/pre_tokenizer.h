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

  // A word that is itself a token is taken whole, even where the merges do not lead to it.
  bool whole_words_first() const { return whole_words_first_; }

 private:
  struct Regex;
  PreTokenizer(std::unique_ptr<Regex> regex, bool whole_words_first);
  std::unique_ptr<Regex> regex_;
  bool whole_words_first_;
};

}  // namespace kvcrush
