// SentencePiece's unigram model: the likeliest way to write text as tokens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/core/types.h"
#include "engine/tokenizer/bpe_merges.h"
#include "engine/tokenizer/unknown_characters.h"

namespace kvcrush {

// Immutable once built, so any number of threads may encode.
class Unigram {
 public:
  // Working memory of one thread, one entry per byte of text: the best path that ends there.
  struct Scratch {
    struct Step {
      double score = 0;         // log-probability of the path
      std::int32_t begin = -1;  // of its last token; -1: no path ends here
      TokenId id = -1;          // -1: an unknown character
    };
    std::vector<Step> best;
    std::vector<std::int32_t> ends;  // of the tokens on the best path, last first
  };

  // `tokens`: those that take part. `log_probabilities` [vocabulary].
  Unigram(const TokenIndex& tokens, const std::vector<double>& log_probabilities,
          const UnknownCharacters& unknown);

  // Appends the tokens of `text` (valid UTF-8, below 2^31 bytes). Time: at most the longest token per byte.
  void encode(std::string_view text, Scratch& scratch, std::vector<TokenId>& out) const;

 private:
  void extend(std::string_view text, std::size_t begin, Scratch& scratch) const;

  struct Piece {
    double log_probability = 0;
    TokenId id = -1;
  };
  // A tree of bytes. Nodes are numbered; 0 is the root.
  static std::uint64_t edge(std::uint32_t node, char byte) {
    return (static_cast<std::uint64_t>(node) << 8) | static_cast<std::uint8_t>(byte);
  }
  std::unordered_map<std::uint64_t, std::uint32_t> edges_;
  std::vector<Piece> pieces_;  // by node
  double unknown_log_probability_ = 0;
  UnknownCharacters unknown_;
};

}  // namespace kvcrush
