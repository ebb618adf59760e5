// Likely continuations of a prompt, run over on the cache as it is before the first prune, so that the prune
// can ask their queries; then they are taken out of the cache (docs/adr/0007-lookahead.md).
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "engine/core/types.h"
#include "engine/kvcrush/params.h"

namespace kvcrush {

struct LookaheadShape {
  int branches = 0;  // begin with the likeliest next tokens, and go on with the likeliest
  int tokens = 0;    // of each branch
  int total() const { return branches * tokens; }
  bool operator==(const LookaheadShape&) const = default;
};

// What a policy asks for, where so many tokens still fit the context.
inline LookaheadShape lookahead_of(const CompressionParams& params, int most_tokens) {
  const int tokens = std::clamp(params.lookahead_tokens, 0, std::max(most_tokens, 0));
  return {.branches = tokens > 0 ? params.lookahead_branches : 0, .tokens = tokens};
}
inline LookaheadShape merge(const LookaheadShape& a, const LookaheadShape& b) {
  return {.branches = std::max(a.branches, b.branches), .tokens = std::max(a.tokens, b.tokens)};
}

class Lookahead {
 public:
  LookaheadShape shape;  // total() 0: none

  bool running() const { return running_; }
  void start() { running_ = true; }
  void stop() { running_ = false; }
  // Chooses where the branches begin. logits: [vocab] after the prompt's last token.
  void choose_first(std::span<const float> logits);
  // Token `offset` of a branch, from the logits after the one before it.
  void choose(int branch, int offset, std::span<const float> logits);
  TokenId at(int branch, int offset) const { return tokens_[place(branch, offset)]; }

  // The branch that begins with `first`, without it: what may come after it. Empty: none does.
  std::vector<TokenId> continuation_of(TokenId first) const;
  // The part that a smaller shape would have seen.
  Lookahead part(const LookaheadShape& smaller) const;

 private:
  std::size_t place(int branch, int offset) const {
    return static_cast<std::size_t>(branch) * static_cast<std::size_t>(shape.tokens) +
           static_cast<std::size_t>(offset);
  }

  bool running_ = false;
  std::vector<TokenId> tokens_;  // [branches, tokens], as far as they are known
};

}  // namespace kvcrush
