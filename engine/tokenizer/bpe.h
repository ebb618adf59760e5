// Byte-pair merging of one word, over bytes or characters and token ids.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/core/status.h"
#include "engine/core/types.h"
#include "engine/tokenizer/bpe_merges.h"
#include "engine/tokenizer/unknown_characters.h"

namespace kvcrush {

// What merging begins with: bytes that are tokens (those that are none are left out, as the reference
// implementations do), or characters.
enum class BpeUnit { kBytes, kCharacters };

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
    std::vector<TokenId> units;  // that merging begins with
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  // `tokens`: those that take part; their texts must outlive this object. `whole_words_first`: a word that is
  // itself a token is taken whole, even where the merges do not lead to it. `unknown`: for characters only.
  Bpe(TokenIndex tokens, const std::vector<BpeMerge>& merges, BpeUnit unit, bool whole_words_first,
      const UnknownCharacters& unknown = {});

  // Appends the tokens of `word` (below 2^31 bytes). Time O(n log n).
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
  void find_units(const TokenIndex& tokens);
  void cut_into_bytes(std::string_view word, std::vector<TokenId>& units) const;
  void cut_into_characters(std::string_view word, std::vector<TokenId>& units) const;
  void merge(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const;
  void push_candidate(Scratch& scratch, std::int32_t left) const;

  BpeUnit unit_;
  UnknownCharacters unknown_;
  std::array<TokenId, 256> byte_ids_{};                       // of tokens of one byte; -1: none
  std::unordered_map<std::uint32_t, TokenId> character_ids_;  // by code point, those of several bytes
  std::unordered_map<std::uint64_t, Merge> merges_;           // key(left, right)
  TokenIndex words_;                                          // words that become exactly this token
};

}  // namespace kvcrush
