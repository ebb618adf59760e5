// Byte-pair merging of one word, over bytes and token ids.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/core/status.h"
#include "engine/core/types.h"

namespace kvcrush {

// Immutable once built, so any number of threads may merge. A word that merging turns into a single token is
// found by one look-up: the table of such words is worked out beforehand and takes the place of a cache.
class Bpe {
 public:
  // Working memory of one thread, reused from word to word.
  struct Scratch {
    struct Symbol {
      TokenId id = -1;  // -1: merged into the one before
      std::int32_t previous = -1;
      std::int32_t next = -1;
    };
    struct Candidate {
      std::int32_t rank = 0;  // lower merges first
      std::int32_t left = 0;  // symbol index; ties go to the leftmost
      TokenId left_id = 0;    // what stood there when the candidate was found
      TokenId right_id = 0;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  // `token_bytes` [vocabulary]: empty where the token takes no part in merging; must outlive this object.
  // `merges`: "left right" in GPT-2's spelling, most frequent first. `whole_words_first`: see PreTokenizer.
  // INVALID_ARGUMENT: a merge that is malformed or names an unknown token.
  static Result<Bpe> create(const std::vector<std::string>& token_bytes,
                            const std::vector<std::string>& merges, bool whole_words_first);

  // Appends the tokens of `word` (below 2^31 bytes). Bytes that no token stands for are left out, as the
  // reference implementations do. Time O(n log n).
  void encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const;

 private:
  struct Merge {
    std::int32_t rank = 0;
    TokenId merged = 0;
  };
  static std::uint64_t key(TokenId left, TokenId right) {
    return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
           static_cast<std::uint32_t>(right);
  }
  Status add_merges(const std::unordered_map<std::string_view, TokenId>& ids,
                    const std::vector<std::string>& merges);
  void merge(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const;
  void push_candidate(Scratch& scratch, std::int32_t left) const;

  std::array<TokenId, 256> byte_ids_{};                  // -1: no token for this byte
  std::unordered_map<std::uint64_t, Merge> merges_;      // key(left, right)
  std::unordered_map<std::string_view, TokenId> words_;  // words that become exactly this token
};

}  // namespace kvcrush
