#include "engine/kvcrush/kept_units.h"

#include <cmath>
#include <cstddef>
#include <numeric>

#include "engine/core/status.h"

namespace kvcrush {
namespace {

std::size_t to_size(int value) {
  return static_cast<std::size_t>(value);
}

int pick_from_group(std::span<const int> group, std::span<const float> importance, RepresentativePick pick) {
  int chosen = group.front();
  if (pick == RepresentativePick::kFirst) return chosen;
  for (const int unit : group.subspan(1)) {
    const float value = importance[to_size(unit)];
    const float best = importance[to_size(chosen)];
    // A group may span buckets, so a tie's lower unit need not come first.
    if (value > best || (value == best && unit < chosen)) chosen = unit;
  }
  return chosen;
}

}  // namespace

FreeUnits share_out(int num_free, double representative_share) {
  KVCRUSH_CHECK(num_free >= 1 && representative_share >= 0.0 && representative_share <= 1.0);
  const int num_representatives = static_cast<int>(std::floor(representative_share * num_free));
  return {num_free - num_representatives, num_representatives};
}

void KeptUnits::keep_most_important(std::span<const float> importance, int count) {
  const TopCut cut = top_.find(importance, count);
  const std::span<const std::uint32_t> keys = top_.keys();
  flags_.resize(keys.size());
  evicted_.resize(keys.size());
  // How many are evicted varies with the share; room for all avoids surprises.
  distances_.reserve(keys.size());
  order_.reserve(keys.size());
  std::size_t num_evicted = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const bool is_important = cut.takes(keys[i], static_cast<int>(i));
    flags_[i] = is_important ? 1 : 0;
    evicted_[num_evicted] = static_cast<int>(i);
    num_evicted += is_important ? 0 : 1;
  }
  evicted_.resize(num_evicted);
}

void KeptUnits::keep_representatives(std::span<const float> importance, const SignatureTable& signatures,
                                     const AnchorSpec& anchor, RepresentativePick pick, int count) {
  const std::size_t num_groups = to_size(count);
  KVCRUSH_CHECK(count >= 1 && num_groups <= evicted_.size() && importance.size() == flags_.size());
  make_anchor(anchor, signatures, evicted_, anchor_);
  hamming_distances(signatures, anchor_, evicted_, distances_);
  sort_by_distance(signatures.num_bits());
  std::size_t begin = 0;
  for (std::size_t group = 1; group <= num_groups; ++group) {
    const std::size_t end = group * order_.size() / num_groups;
    flags_[to_size(pick_from_group(std::span(order_).subspan(begin, end - begin), importance, pick))] = 1;
    begin = end;
  }
}

void KeptUnits::sort_by_distance(int num_bits) {
  bucket_ends_.assign(to_size(num_bits) + 1, 0);
  for (const int distance : distances_) ++bucket_ends_[to_size(distance)];
  std::exclusive_scan(bucket_ends_.begin(), bucket_ends_.end(), bucket_ends_.begin(), 0);
  order_.resize(evicted_.size());
  for (std::size_t i = 0; i < evicted_.size(); ++i) {
    order_[to_size(bucket_ends_[to_size(distances_[i])]++)] = evicted_[i];
  }
}

}  // namespace kvcrush
