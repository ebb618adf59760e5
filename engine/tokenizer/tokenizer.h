// Text to token ids and back. Immutable after creation and safe to use from any thread.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/status.h"
#include "engine/core/types.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

struct EncodeOptions {
  bool add_special_tokens = true;  // what the tokenizer adds by itself (BOS and EOS where the model says so)
  bool parse_special_tokens = true;  // special tokens spelled in the text become their ids; false: they are
                                     // plain text, white space apart
};

class Tokenizer {
 public:
  // INVALID_ARGUMENT: unknown model or pre-tokenizer (named), merges that name unknown tokens, bytes without
  // tokens, inconsistent sizes.
  static Result<std::shared_ptr<const Tokenizer>> create(TokenizerSpec spec);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // INVALID_ARGUMENT with the byte offset where `text` is not valid UTF-8.
  Result<std::vector<TokenId>> encode(std::string_view text, const EncodeOptions& options = {}) const;

  // Pieces of a rendered chat prompt, each with its own view of special tokens, as one text: the
  // pre-tokenizer's word borders are those of the joined text except where a special token stands.
  Result<std::vector<TokenId>> encode(std::span<const PromptPiece> pieces) const;

  // The text of the tokens, without the space that the model puts in front of text; may cut a UTF-8 sequence.
  // Ids must be in [0, vocab_size()).
  std::string decode(std::span<const TokenId> ids, bool skip_special_tokens) const;
  std::string_view token_bytes(TokenId id) const;
  bool is_special(TokenId id) const;

  int vocab_size() const;
  // Text of so many bytes per token of a context is too long for it, whatever it says.
  std::size_t longest_token_bytes() const;
  const TokenizerSpec& spec() const;

 private:
  struct Impl;
  // A part of a text that ends at byte `end`. Without markers: no special token but white space is looked
  // for.
  struct Run {
    std::size_t end = 0;
    bool has_markers = false;
  };
  Status encode_runs(std::string_view text, std::span<const Run> runs, std::vector<TokenId>& ids) const;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvcrush
