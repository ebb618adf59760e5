// Drafts by prompt lookup (n-gram speculation): where the newest tokens have occurred before, in the prompt
// or in the output, what followed them then is a guess at what follows now. Answers that quote or repeat
// their prompt are full of such runs.
//
// Occurrences are found as deflate finds them: heads_ has the newest position of each hashed pair of tokens,
// earlier_ the one before each position, and a search walks a bounded number of them for the longest match.
// So a token costs the same however long the prompt is.
//
//   position        0   1   2   3   4   5   6   7
//   tokens          A   B   C   D   E   A   B   C    -> predicted_ = 3 (D), matched_ = 3 (A B C)
//   earlier_        -   -   -   -   -   -   1   2       by the pair that ends there
//
// How many drafts are worth checking is learnt from the sequence itself: every new token tells whether the
// prediction made for it, drafted or not, was right, by how long the match behind it was. Where predictions
// fail nothing is drafted, which costs nothing, and where they come true again drafting is resumed.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/core/types.h"

namespace kvcrush {

class PromptLookup {
 public:
  // max_drafts: >= 1, at a time.
  explicit PromptLookup(int max_drafts) : max_drafts_(max_drafts) {}

  // Guesses at what follows `tokens`, which begin with those of the last call: at most `most`, and each of
  // them right, with those before it, with a chance of at least `least_chance`. Empty: nothing is likely
  // enough.
  std::vector<TokenId> propose(std::span<const TokenId> tokens, int most, double least_chance);

 private:
  static constexpr int kNumClasses = 4;

  // Takes in the tokens since the last call.
  void follow(std::span<const TokenId> tokens);
  // Looks for the longest match of the newest tokens.
  void find(std::span<const TokenId> tokens);
  // Enters the pair that ends at `position`.
  void enter(std::span<const TokenId> tokens, int position);
  void make_room(std::span<const TokenId> tokens);
  std::size_t bucket_of(TokenId first, TokenId second) const;
  static std::size_t class_of(int matched);

  int max_drafts_;
  int num_seen_ = 0;
  int predicted_ = -1;  // position of the token that is expected next; -1: none is
  int matched_ = 0;     // newest tokens that are the same as those before it
  // How often a prediction came true lately, by the length of its match: 2-3, 4-7, 8-15, 16 tokens and more.
  // At first as in quoting text.
  std::array<double, kNumClasses> hit_rates_ = {0.4, 0.6, 0.8, 0.9};
  std::vector<std::int32_t> heads_;    // [power of two]
  std::vector<std::int32_t> earlier_;  // [num_seen_]
};

}  // namespace kvcrush
