#include "engine/kvcrush/select.h"

#include <algorithm>
#include <cmath>
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
  KVCRUSH_CHECK(input.representative_share >= 0.0 && input.representative_share <= 1.0);
  if (input.num_tokens <= input.budget_tokens) {
    kept_slots_.resize(to_size(input.num_tokens));
    std::iota(kept_slots_.begin(), kept_slots_.end(), 0);
    return kept_slots_;
  }
  const int num_candidates = input.num_tokens - num_fixed;
  KVCRUSH_CHECK(input.num_heads >= 1);
  KVCRUSH_CHECK(input.scores.size() == to_size(input.num_heads) * to_size(num_candidates));
  const int num_free = input.budget_tokens - num_fixed;
  const int num_representatives = static_cast<int>(std::floor(input.representative_share * num_free));

  importance_.resize(to_size(num_candidates));
  distances_.reserve(
      importance_.size());  // how many are evicted varies with the share; room for all avoids surprises
  order_.reserve(importance_.size());
  sum_importance(input);
  split_by_importance(num_free - num_representatives);
  if (num_representatives > 0) mark_representatives(input, num_free, num_representatives);
  list_kept_slots(input);
  return kept_slots_;
}

void Selector::sum_importance(const SelectionInput& input) {
  const std::size_t num_candidates = importance_.size();
  std::copy_n(input.scores.begin(), num_candidates, importance_.begin());
  for (std::size_t head = 1; head < to_size(input.num_heads); ++head) {
    const float* const row = input.scores.data() + head * num_candidates;
    float* const sums = importance_.data();
    for (std::size_t i = 0; i < num_candidates; ++i) sums[i] += row[i];
  }
}

void Selector::split_by_importance(int num_important) {
  const TopCut cut = top_.find(importance_, num_important);
  const std::span<const std::uint32_t> keys = top_.keys();
  keeps_.resize(keys.size());
  evicted_.resize(keys.size());
  std::size_t num_evicted = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const bool is_important = cut.takes(keys[i], static_cast<int>(i));
    keeps_[i] = is_important ? 1 : 0;
    evicted_[num_evicted] = static_cast<int>(i);
    num_evicted += is_important ? 0 : 1;
  }
  evicted_.resize(num_evicted);
}

void Selector::mark_representatives(const SelectionInput& input, int num_free, int num_representatives) {
  sign_tokens(input, num_free);
  make_anchor({input.anchor, input.first_head, input.seed, input.layer}, signatures_, evicted_, anchor_);
  hamming_distances(signatures_, anchor_, evicted_, distances_);
  sort_by_distance(input.num_heads);
  const std::size_t num_groups = to_size(num_representatives);
  std::size_t begin = 0;
  for (std::size_t group = 1; group <= num_groups; ++group) {
    const std::size_t end = group * order_.size() / num_groups;
    const int chosen = pick_from_group(std::span(order_).subspan(begin, end - begin), input.pick);
    keeps_[to_size(chosen)] = 1;
    begin = end;
  }
}

void Selector::sign_tokens(const SelectionInput& input, int num_free) {
  const std::size_t num_candidates = importance_.size();
  signatures_.reset(input.num_heads, static_cast<int>(num_candidates));
  for (int head = 0; head < input.num_heads; ++head) {
    const TopCut cut =
        top_.find(input.scores.subspan(to_size(head) * num_candidates, num_candidates), num_free);
    signatures_.set_head(head, top_.keys(), cut);
  }
}

void Selector::sort_by_distance(int num_heads) {
  bucket_ends_.assign(to_size(num_heads) + 1, 0);
  for (const int distance : distances_) ++bucket_ends_[to_size(distance)];
  std::exclusive_scan(bucket_ends_.begin(), bucket_ends_.end(), bucket_ends_.begin(), 0);
  order_.resize(evicted_.size());
  for (std::size_t i = 0; i < evicted_.size(); ++i) {
    order_[to_size(bucket_ends_[to_size(distances_[i])]++)] = evicted_[i];
  }
}

int Selector::pick_from_group(std::span<const int> group, RepresentativePick pick) const {
  int chosen = group.front();
  if (pick == RepresentativePick::kFirst) return chosen;
  for (const int candidate : group.subspan(1)) {
    const float value = importance_[to_size(candidate)];
    const float best = importance_[to_size(chosen)];
    // A group may span buckets, so a tie's lower slot need not come first.
    if (value > best || (value == best && candidate < chosen)) chosen = candidate;
  }
  return chosen;
}

void Selector::list_kept_slots(const SelectionInput& input) {
  // One entry to spare: the loop below writes before it knows whether the slot is kept.
  kept_slots_.resize(to_size(input.budget_tokens) + 1);
  const auto sinks_end = kept_slots_.begin() + input.num_sink_tokens;
  std::iota(kept_slots_.begin(), sinks_end, 0);
  std::size_t num_kept = to_size(input.num_sink_tokens);
  for (std::size_t i = 0; i < keeps_.size(); ++i) {
    kept_slots_[num_kept] = input.num_sink_tokens + static_cast<int>(i);
    num_kept += keeps_[i];
  }
  KVCRUSH_CHECK(num_kept + to_size(input.window_tokens) == to_size(input.budget_tokens));
  kept_slots_.resize(to_size(input.budget_tokens));
  std::iota(kept_slots_.end() - input.window_tokens, kept_slots_.end(),
            input.num_tokens - input.window_tokens);
}

}  // namespace kvcrush
