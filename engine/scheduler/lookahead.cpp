#include "engine/scheduler/lookahead.h"

#include <numeric>

namespace kvcrush {

void Lookahead::choose_first(std::span<const float> logits) {
  tokens_.assign(static_cast<std::size_t>(shape.total()), 0);
  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto count = std::min<std::size_t>(static_cast<std::size_t>(shape.branches), order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    [&](TokenId a, TokenId b) {
                      const float first = logits[static_cast<std::size_t>(a)];
                      const float second = logits[static_cast<std::size_t>(b)];
                      return first != second ? first > second : a < b;
                    });
  for (std::size_t b = 0; b < count; ++b) tokens_[b * static_cast<std::size_t>(shape.tokens)] = order[b];
}

void Lookahead::choose(int branch, int offset, std::span<const float> logits) {
  const auto likeliest = std::max_element(logits.begin(), logits.end()) - logits.begin();
  tokens_[place(branch, offset)] = static_cast<TokenId>(likeliest);
}

std::vector<TokenId> Lookahead::continuation_of(TokenId first) const {
  for (int b = 0; b < shape.branches; ++b) {
    if (at(b, 0) != first) continue;
    const auto begin = tokens_.begin() + static_cast<std::ptrdiff_t>(place(b, 0));
    return {begin + 1, begin + shape.tokens};
  }
  return {};
}

Lookahead Lookahead::part(const LookaheadShape& smaller) const {
  Lookahead result;
  result.shape = smaller;
  result.tokens_.reserve(static_cast<std::size_t>(smaller.total()));
  for (int b = 0; b < smaller.branches; ++b)
    for (int i = 0; i < smaller.tokens; ++i) result.tokens_.push_back(at(b, i));
  return result;
}

}  // namespace kvcrush
