#include "engine/scheduler/cache_schedule.h"

#include <algorithm>
#include <limits>

#include "engine/kvcrush/prune_plan.h"

namespace kvcrush {

namespace {

constexpr int kNever = std::numeric_limits<int>::max() / 2;
constexpr int kDefaultWindowTokens = 32;  // unpacked tokens of a sequence that does not prune
constexpr int kBudgetShareOfHysteresis = 32;

}  // namespace

CacheSchedule::CacheSchedule(const CachePolicy& policy, const cpu::KvFormat& format, int num_prompt_tokens,
                             int num_layers)
    : compression_(policy.compression),
      format_(format),
      num_prompt_tokens_(num_prompt_tokens),
      num_layers_(num_layers),
      window_tokens_(policy.compression ? policy.compression->window_tokens : kDefaultWindowTokens) {
  if (compression_) {
    budget_tokens_ = compression_->target_compression
                         ? budget_for_target(*compression_->target_compression)
                         : resolve_budget_tokens(*compression_, num_prompt_tokens);
  }
  const int least = std::max(window_tokens_, budget_tokens_ / kBudgetShareOfHysteresis);
  const int unit = std::max(format.tail_tokens_per_block, 1);
  hysteresis_tokens_ = cpu::ceil_div(std::max(least, 1), unit) * unit;
}

// The largest budget whose blocks, at the prompt's end, take no more than the target leaves; the least one
// where none does.
int CacheSchedule::budget_for_target(int target) const {
  constexpr int kHalfTokensPerBlock = 2 * cpu::kTileTokens;  // 16-bit tokens of a block
  const double allowed = static_cast<double>(num_prompt_tokens_) / kHalfTokensPerBlock / target * num_layers_;
  const auto blocks_at = [&](int budget) {
    int blocks = 0;
    for (int layer = 0; layer < num_layers_; ++layer) {
      const int kept =
          std::min(num_prompt_tokens_, layer_budget_tokens(*compression_, budget, layer, num_layers_));
      const int packable = packs() ? std::max(0, kept - window_tokens_) : 0;
      const int packed = packable / format_.tail_tokens_per_block * format_.tail_tokens_per_block;
      blocks += blocks_for(format_, packed, kept - packed);
    }
    return blocks;
  };
  const int least = min_budget_tokens(*compression_);
  int budget = std::max(least, num_prompt_tokens_);
  while (budget > least && blocks_at(budget) > allowed) --budget;
  return budget;
}

int CacheSchedule::layer_budget(int layer) const {
  return layer_budget_tokens(*compression_, budget_tokens_, layer, num_layers_);
}

int CacheSchedule::prune_threshold(int num_computed) const {
  if (!prunes()) return kNever;
  if (num_computed >= num_prompt_tokens_) return hysteresis_tokens_;
  return compression_->when == PruneWhen::kDuringPrefill ? kPrefillSlackTokens : kNever;
}

// During the prompt it is packed only together with pruning.
int CacheSchedule::pack_threshold(int num_computed) const {
  return packs() && num_computed >= num_prompt_tokens_ ? hysteresis_tokens_ : kNever;
}

// Layers gain tokens together; those that were pruned are over their budgets by the same number.
int CacheSchedule::prune_excess(const SequenceCache& cache) const {
  if (!prunes()) return 0;
  int excess = -kNever;
  for (int layer = 0; layer < num_layers_; ++layer)
    excess = std::max(excess, cache.layer(layer).num_cached_tokens() - layer_budget(layer));
  return excess;
}

int CacheSchedule::pack_excess(const SequenceCache& cache) const {
  return packs() ? cache.layer(0).num_tail_tokens() - window_tokens_ : 0;
}

int CacheSchedule::tokens_to_boundary(int num_computed, const SequenceCache& cache) const {
  const int to_threshold = std::min(prune_threshold(num_computed) - prune_excess(cache),
                                    pack_threshold(num_computed) - pack_excess(cache));
  if (num_computed >= num_prompt_tokens_) return std::max(1, to_threshold);
  return std::max(1, std::min(to_threshold, num_prompt_tokens_ - num_computed));
}

Settling CacheSchedule::due(int num_computed, const SequenceCache& cache) const {
  const bool prompt_ends = num_computed == num_prompt_tokens_;
  const int over_budget = prune_excess(cache);
  const int over_window = pack_excess(cache);
  Settling due;
  due.prune = prunes() && over_budget > 0 && (prompt_ends || over_budget >= prune_threshold(num_computed));
  due.pack = packs() && over_window >= format_.tail_tokens_per_block &&
             (prompt_ends || due.prune || over_window >= pack_threshold(num_computed));
  return due;
}

// Tokens leave the tail by whole tail blocks, so that packing in place always finds room
// (cpu::can_rewrite_in_place).
SequenceCache::LayerShape CacheSchedule::settled_shape(int layer, const Settling& settling, int num_packed,
                                                       int num_tail) const {
  const int num_cached = num_packed + num_tail;
  const int kept =
      settling.prune ? num_kept_tokens(*compression_, layer_budget(layer), num_cached) : num_cached;
  SequenceCache::LayerShape shape{
      .num_packed = num_packed, .num_tail = kept - num_packed, .num_evicted = num_cached - kept};
  const int packable = kept - window_tokens_;
  if (packable < num_packed) {
    shape.num_packed = std::max(packable, 0);
  } else if (settling.pack) {
    const int unit = format_.tail_tokens_per_block;
    shape.num_packed = num_packed + (packable - num_packed) / unit * unit;
  }
  shape.num_tail = kept - shape.num_packed;
  return shape;
}

int CacheSchedule::layer_peak_blocks(int layer, int num_tokens, bool forked) const {
  const int prompt = std::min(num_tokens, num_prompt_tokens_);
  if (!prunes() && !packs()) return blocks_for(format_, 0, num_tokens);
  // A packed layer's tail: window, hysteresis, and what did not fill a block.
  const auto blocks_of = [&](int cached, int unpacked) {
    if (!packs()) return blocks_for(format_, 0, cached);
    const int tail = std::min(cached, unpacked);
    // A shorter tail beside a packed block that is just begun takes one more.
    return blocks_for(format_, cached - tail, tail) + (cached > tail ? 1 : 0);
  };
  const int tail_slack = window_tokens_ + hysteresis_tokens_ + format_.tail_tokens_per_block;
  const int most_decoding =
      prunes() ? std::min(num_tokens, layer_budget(layer) + hysteresis_tokens_) : num_tokens;
  int peak = blocks_of(most_decoding, tail_slack);
  if (forked) return peak;
  // Nothing is packed before the first boundary.
  const bool prunes_early = prunes() && compression_->when == PruneWhen::kDuringPrefill;
  const int most_unpacked =
      prunes_early ? std::min(prompt, layer_budget(layer) + kPrefillSlackTokens) : prompt;
  return std::max(peak, blocks_for(format_, 0, most_unpacked));
}

int CacheSchedule::peak_blocks(int num_tokens, bool forked) const {
  int peak = 0;
  for (int layer = 0; layer < num_layers_; ++layer) peak += layer_peak_blocks(layer, num_tokens, forked);
  return peak;
}

}  // namespace kvcrush
