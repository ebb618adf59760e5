// Tokens that are found whole in text, before words or merges are looked at.
#pragma once

#include <string>
#include <string_view>

#include "engine/tokenizer/special_tokens.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

// Two kinds. Markers steer a conversation ("<|im_end|>", "<think>"): text that a user wrote must not make
// them. White space ("\n\n", runs of spaces) is text, whoever wrote it.
class AddedTokens {
 public:
  using Match = SpecialTokens::Match;

  // `texts` [vocabulary]: as normalised text has them.
  AddedTokens(const TokenizerSpec& spec, const std::vector<std::string>& texts);

  // The next marker that begins at or after `offset` of `text`, with the white space that it takes along:
  // `plain_begin` is where the plain text before it begins.
  Match find_marker(std::string_view text, std::size_t offset, std::size_t plain_begin) const;
  // The marker's end in a text that goes on after where it was looked for.
  std::size_t end_with_space(const Match& marker, std::string_view text) const;
  Match find_space(std::string_view text, std::size_t offset) const { return raw_space_.find(text, offset); }
  Match find_normalized_space(std::string_view text, std::size_t offset) const {
    return normalized_space_.find(text, offset);
  }

 private:
  AddedTokenRules rules_of(TokenId id) const;

  std::map<TokenId, AddedTokenRules> rules_;
  SpecialTokens markers_;
  SpecialTokens raw_space_;
  SpecialTokens normalized_space_;
};

}  // namespace kvcrush
