// Plain text to tokens, whichever way the model file says.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/status.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/tokenizer_spec.h"
#include "engine/tokenizer/unigram.h"

namespace kvcrush {

// Immutable once built, so any number of threads may encode.
class TextModel {
 public:
  struct Scratch {
    Bpe::Scratch bpe;
    Unigram::Scratch unigram;
  };

  // `texts` [vocabulary]: what each token stands for; must outlive this object. INVALID_ARGUMENT: unknown
  // pre-tokenizer, or merges that are malformed or name unknown tokens.
  static Result<TextModel> create(const TokenizerSpec& spec, const std::vector<std::string>& texts);

  // Appends the tokens of normalised text.
  Status encode(std::string_view text, Scratch& scratch, std::vector<TokenId>& out) const;

 private:
  Status use_byte_level(const TokenizerSpec& spec, const std::vector<std::string>& texts);
  Status use_pieces(const TokenizerSpec& spec, const std::vector<std::string>& texts);

  enum class Spaces {
    kAnywhere,
    kInFront,
    kAlone
  };  // where a token may have them: the text is cut accordingly

  std::shared_ptr<const PreTokenizer> pre_tokenizer_;  // byte-level only
  std::optional<Bpe> bpe_;
  std::optional<Unigram> unigram_;
  Spaces spaces_ = Spaces::kAnywhere;
};

}  // namespace kvcrush
