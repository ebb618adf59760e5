// Turns a stream of tokens into a stream of text that never holds half a UTF-8 sequence and never passes a
// stop string.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/tokenizer.h"

namespace kvcrush {

// Replaces every maximal ill-formed subpart of UTF-8 by U+FFFD (the practice Unicode recommends).
std::string replace_broken_utf8(std::string_view bytes);

class IncrementalDecoder {
 public:
  // `stop`: strings that end the text; may be empty. Special tokens are not shown when `skip_special_tokens`.
  // `begins_text`: the tokens are a text of their own, as Tokenizer::decode takes them, and not what follows
  // another: the space that some models put in front of text is not shown.
  IncrementalDecoder(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> stop,
                     bool skip_special_tokens, bool begins_text = false);

  // Text that is certain now. Held back: an unfinished UTF-8 sequence, and any suffix that could begin a stop
  // string. `may_stop` false (before min_tokens): stop strings are not looked for in text completed by this
  // token. After a stop string has matched it returns nothing more.
  std::string push(TokenId token, bool may_stop = true);
  // What is still held back, broken UTF-8 as U+FFFD. Call once, at the end.
  std::string flush();
  // The stop string that matched: the earliest in the text, the longest where two begin together.
  const std::optional<std::string>& stop_match() const { return stop_match_; }

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<std::string> stop_;
  bool skip_special_tokens_;
  bool strip_space_;           // the next bytes begin the text
  std::string pending_bytes_;  // unfinished UTF-8
  std::string pending_text_;   // whole UTF-8 that may begin a stop string
  std::optional<std::string> stop_match_;
};

}  // namespace kvcrush
