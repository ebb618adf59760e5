#include "engine/kvcrush/select.h"

#include <cstddef>
#include <numeric>

#include "engine/core/status.h"

namespace kvcrush {
namespace {

std::size_t to_size(int value) {
  return static_cast<std::size_t>(value);
}

}  // namespace

std::span<const int> Selector::select(const SelectionInput& input) {
  const int num_fixed = input.num_sink_tokens + input.window_tokens;
  KVCRUSH_CHECK(input.num_sink_tokens >= 0 && input.window_tokens >= 0 && input.budget_tokens > num_fixed);
  if (input.num_tokens <= input.budget_tokens) {
    kept_slots_.resize(to_size(input.num_tokens));
    std::iota(kept_slots_.begin(), kept_slots_.end(), 0);
    return kept_slots_;
  }
  const int num_free = input.budget_tokens - num_fixed;
  const FreeUnits free = share_out(num_free, input.representative_share);
  KVCRUSH_CHECK(input.importance.size() == to_size(input.num_tokens - num_fixed));
  kept_.keep_most_important(input.importance, free.num_important);
  if (free.num_representatives > 0) {
    sign_tokens(input, num_free);
    const int first_bit = input.first_head / input.heads_per_bit;
    kept_.keep_representatives(input.importance, signatures_,
                               {input.anchor, first_bit, input.seed, input.layer}, input.pick,
                               free.num_representatives);
  }
  list_kept_slots(input);
  return kept_slots_;
}

void Selector::sign_tokens(const SelectionInput& input, int num_free) {
  const int group = input.heads_per_bit;
  KVCRUSH_CHECK(group >= 1 && input.num_heads % group == 0 && input.first_head % group == 0);
  const std::size_t num_candidates = input.importance.size();
  signatures_.reset(input.num_heads / group, static_cast<int>(num_candidates));
  for (int head = 0; head < input.num_heads; ++head) {
    const TopCut cut =
        top_.find(input.scores.subspan(to_size(head) * num_candidates, num_candidates), num_free);
    signatures_.set_bit(head / group, top_.keys(), cut);
  }
}

void Selector::list_kept_slots(const SelectionInput& input) {
  const std::span<const std::uint8_t> flags = kept_.flags();
  // One entry to spare: the loop below writes before it knows whether the slot is kept.
  kept_slots_.resize(to_size(input.budget_tokens) + 1);
  std::iota(kept_slots_.begin(), kept_slots_.begin() + input.num_sink_tokens, 0);
  std::size_t num_kept = to_size(input.num_sink_tokens);
  for (std::size_t i = 0; i < flags.size(); ++i) {
    kept_slots_[num_kept] = input.num_sink_tokens + static_cast<int>(i);
    num_kept += flags[i];
  }
  KVCRUSH_CHECK(num_kept + to_size(input.window_tokens) == to_size(input.budget_tokens));
  kept_slots_.resize(to_size(input.budget_tokens));
  std::iota(kept_slots_.end() - input.window_tokens, kept_slots_.end(),
            input.num_tokens - input.window_tokens);
}

}  // namespace kvcrush
