#include "engine/kvcrush/block_select.h"

#include <cstddef>
#include <numeric>

#include "engine/core/status.h"

namespace kvcrush {
namespace {

constexpr int kBlock = kSelectionBlockTokens;

std::size_t to_size(int value) {
  return static_cast<std::size_t>(value);
}

void append_slots(int begin, int end, std::vector<int>& slots) {
  for (int slot = begin; slot < end; ++slot) slots.push_back(slot);
}

}  // namespace

BlockCounts count_blocks(int num_tokens, int budget_tokens, int num_sink_tokens, int window_tokens) {
  BlockCounts counts;
  counts.first_unit = (num_sink_tokens + kBlock - 1) / kBlock;
  counts.num_units = (num_tokens - window_tokens) / kBlock - counts.first_unit;
  counts.num_always = num_tokens - counts.num_units * kBlock;
  counts.num_free = (budget_tokens - counts.num_always) / kBlock;
  KVCRUSH_CHECK(counts.num_units >= 1 && counts.num_free >= 1);
  return counts;
}

std::span<const int> BlockSelector::select(const SelectionInput& input) {
  const int num_fixed = input.num_sink_tokens + input.window_tokens;
  KVCRUSH_CHECK(input.num_sink_tokens >= 0 && input.window_tokens >= 0 && input.budget_tokens > num_fixed);
  if (input.num_tokens <= input.budget_tokens) {
    kept_slots_.resize(to_size(input.num_tokens));
    std::iota(kept_slots_.begin(), kept_slots_.end(), 0);
    return kept_slots_;
  }
  const auto [first_unit, num_units, num_always, num_free] =
      count_blocks(input.num_tokens, input.budget_tokens, input.num_sink_tokens, input.window_tokens);
  const FreeUnits free = share_out(num_free, input.representative_share);

  KVCRUSH_CHECK(input.importance.size() == to_size(input.num_tokens - num_fixed));
  unit_tokens_ = input.importance.subspan(to_size(first_unit * kBlock - input.num_sink_tokens),
                                          to_size(num_units * kBlock));
  weigh_units();
  kept_.keep_most_important(unit_importance_, free.num_important);
  if (free.num_representatives > 0) {
    sign_units();
    kept_.keep_representatives(unit_importance_, signatures_, {input.anchor, 0, input.seed, input.layer},
                               input.pick, free.num_representatives);
  }
  kept_slots_.reserve(to_size(input.budget_tokens));
  list_kept_slots(first_unit * kBlock, input.num_tokens);
  KVCRUSH_CHECK(kept_slots_.size() == to_size(num_always + num_free * kBlock));
  return kept_slots_;
}

void BlockSelector::weigh_units() {
  unit_importance_.resize(unit_tokens_.size() / kBlock);
  for (std::size_t unit = 0; unit < unit_importance_.size(); ++unit) {
    const std::span<const float> tokens = unit_tokens_.subspan(unit * kBlock, kBlock);
    unit_importance_[unit] = std::accumulate(tokens.begin(), tokens.end(), 0.0f);
  }
}

void BlockSelector::sign_units() {
  signatures_.reset(kBlock, static_cast<int>(unit_importance_.size()));
  const TopCut cut = top_.find(unit_tokens_, static_cast<int>(unit_tokens_.size() / 2));
  signatures_.set_members(top_.keys(), cut);
}

void BlockSelector::list_kept_slots(int first_unit_slot, int num_tokens) {
  kept_slots_.clear();
  append_slots(0, first_unit_slot, kept_slots_);
  int slot = first_unit_slot;
  for (const std::uint8_t stays : kept_.flags()) {
    if (stays != 0) append_slots(slot, slot + kBlock, kept_slots_);
    slot += kBlock;
  }
  append_slots(slot, num_tokens, kept_slots_);
}

}  // namespace kvcrush
