// A byte-level vocabulary small enough to work through by hand.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/tokenizer.h"

namespace kvcrush::test {

// Ids 0..255 are the bytes, then one per merge in order, then the special tokens.
inline TokenizerSpec small_spec(const std::vector<std::pair<std::string, std::string>>& merges,
                                const std::vector<std::string>& specials = {},
                                std::string pre_tokenizer = "gpt-2") {
  TokenizerSpec spec;
  spec.model = "gpt2";
  spec.pre_tokenizer = std::move(pre_tokenizer);
  for (int byte = 0; byte < 256; ++byte) {
    spec.tokens.push_back(alphabet_from_bytes(std::string(1, static_cast<char>(byte))));
  }
  for (const auto& [left, right] : merges) {
    spec.tokens.push_back(alphabet_from_bytes(left + right));
    spec.merges.push_back(alphabet_from_bytes(left) + " " + alphabet_from_bytes(right));
  }
  spec.kinds.assign(spec.tokens.size(), TokenKind::kNormal);
  for (const std::string& special : specials) {
    spec.tokens.push_back(special);
    spec.kinds.push_back(TokenKind::kControl);
  }
  return spec;
}

inline std::shared_ptr<const Tokenizer> make_tokenizer(TokenizerSpec spec) {
  auto tokenizer = Tokenizer::create(std::move(spec));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return tokenizer.ok() ? *tokenizer : nullptr;
}

// The text of each token.
inline std::vector<std::string> pieces_of(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  std::vector<std::string> pieces;
  for (const TokenId id : ids) pieces.emplace_back(tokenizer.token_bytes(id));
  return pieces;
}

}  // namespace kvcrush::test
