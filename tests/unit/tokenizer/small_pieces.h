// A SentencePiece vocabulary small enough to work through by hand.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush::test {

inline constexpr TokenId kFirstPiece = 259;

// Ids: <unk>, <s>, </s>, the 256 bytes, then `pieces` in order, those merged first in front. A space is a
// piece first.
inline TokenizerSpec small_pieces(const std::vector<std::string>& pieces,
                                  SpacePrefix prefix = SpacePrefix::kAlways) {
  TokenizerSpec spec;
  spec.model = "llama";
  spec.tokens = {"<unk>", "<s>", "</s>"};
  spec.kinds = {TokenKind::kUnknown, TokenKind::kControl, TokenKind::kControl};
  for (int byte = 0; byte < 256; ++byte) {
    constexpr const char* kDigits = "0123456789ABCDEF";
    spec.tokens.push_back(std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">");
    spec.kinds.push_back(TokenKind::kByte);
  }
  spec.scores.assign(spec.tokens.size(), 0.0);
  for (const std::string& piece : pieces) {
    spec.scores.push_back(-static_cast<double>(spec.tokens.size()));
    spec.tokens.push_back(piece);
    spec.kinds.push_back(TokenKind::kNormal);
  }
  spec.unknown_id = 0;
  spec.bos_id = 1;
  spec.eos_id = 2;
  spec.space_prefix = prefix;
  spec.strip_first_space = prefix != SpacePrefix::kNone;
  return spec;
}

inline TokenId add_token(TokenizerSpec& spec, std::string text, TokenKind kind, AddedTokenRules rules = {}) {
  const auto id = static_cast<TokenId>(spec.tokens.size());
  spec.tokens.push_back(std::move(text));
  spec.kinds.push_back(kind);
  if (!spec.scores.empty()) spec.scores.push_back(0.0);
  spec.added_rules[id] = rules;
  return id;
}

}  // namespace kvcrush::test
