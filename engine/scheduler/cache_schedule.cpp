#include "engine/scheduler/cache_schedule.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/kvcrush/prune_plan.h"

namespace kvcrush {

namespace {

constexpr int kNever = std::numeric_limits<int>::max() / 2;
constexpr int kDefaultWindowTokens = 32;  // unpacked tokens of a sequence that does not prune
constexpr int kBudgetShareOfHysteresis = 32;

}  // namespace

CacheSchedule::CacheSchedule(const CachePolicy& policy, const cpu::KvFormat& format, int num_prompt_tokens,
                             int num_layers, std::vector<int> windows)
    : compression_(policy.compression),
      format_(format),
      num_prompt_tokens_(num_prompt_tokens),
      num_layers_(num_layers),
      windows_(std::move(windows)),
      window_tokens_(policy.compression ? policy.compression->window_tokens : kDefaultWindowTokens) {
  if (compression_ && compression_->target_compression) {
    fill_target_budgets(*compression_->target_compression);
  } else if (compression_) {
    budget_tokens_ = resolve_budget_tokens(*compression_, num_prompt_tokens);
  }
  const int least = std::max(window_tokens_, budget_tokens_ / kBudgetShareOfHysteresis);
  const int unit = std::max(format.tail_tokens_per_block, 1);
  hysteresis_tokens_ = cpu::ceil_div(std::max(least, 1), unit) * unit;
}

// Tokens that fill so many blocks to the last slot: nothing is gained by keeping fewer.
int CacheSchedule::block_capacity(int num_blocks) const {
  if (!packs()) return num_blocks * format_.tail_tokens_per_block;
  const int tail_blocks = cpu::ceil_div(window_tokens_, format_.tail_tokens_per_block);
  return window_tokens_ + (num_blocks - tail_blocks) * format_.packed_tokens_per_block;
}

// Shares the blocks that the target leaves, at the prompt's end, over the layers in the shape that the params
// ask for, and fills them. Every layer gets enough for the least budget, whatever the target.
void CacheSchedule::fill_target_budgets(int target) {
  constexpr double kHalfTokensPerBlock = 2 * cpu::kTileTokens;  // 16-bit tokens of a block
  int least_blocks = 1;
  while (block_capacity(least_blocks) < min_budget_tokens(*compression_)) ++least_blocks;
  int most_blocks = least_blocks;
  while (block_capacity(most_blocks) < num_prompt_tokens_) ++most_blocks;
  const double allowed = num_prompt_tokens_ / kHalfTokensPerBlock / target * num_layers_;
  int left = std::max(0, static_cast<int>(allowed) - least_blocks * num_layers_);
  std::vector<int> blocks(static_cast<std::size_t>(num_layers_), least_blocks);
  // Weights of layers: budgets of a mean of 1,000 free tokens. What a full layer cannot take goes to the
  // others.
  const int fixed = compression_->num_sink_tokens + compression_->window_tokens;
  std::vector<double> share(blocks.size());
  double total = 0;
  for (std::size_t l = 0; l < share.size(); ++l) {
    share[l] = layer_budget_tokens(*compression_, fixed + 1000, static_cast<int>(l), num_layers_) - fixed;
    total += share[l];
  }
  double taken = 0;
  int given = 0;
  for (std::size_t l = 0; l < blocks.size(); ++l) {  // cumulative, so that rounding does not add up
    taken += share[l] / total * left;
    const int extra = std::min(static_cast<int>(std::lround(taken)) - given, most_blocks - blocks[l]);
    blocks[l] += extra;
    given += extra;
  }
  left -= given;
  for (std::size_t l = blocks.size(); l-- > 0 && left > 0;) {
    const int extra = std::min(left, most_blocks - blocks[l]);
    blocks[l] += extra;
    left -= extra;
  }
  std::int64_t sum = 0;
  for (const int count : blocks) {
    target_budgets_.push_back(std::max(min_budget_tokens(*compression_), block_capacity(count)));
    sum += target_budgets_.back();
  }
  budget_tokens_ = static_cast<int>(sum / num_layers_);
}

int CacheSchedule::layer_budget(int layer) const {
  if (!target_budgets_.empty()) return target_budgets_[static_cast<std::size_t>(layer)];
  return layer_budget_tokens(*compression_, budget_tokens_, layer, num_layers_);
}

int CacheSchedule::least_budget() const {
  int least = kNever;
  for (int layer = 0; layer < num_layers_; ++layer) least = std::min(least, layer_budget(layer));
  return least;
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

// Layers gain tokens together; those that were pruned are over their budgets by the same number. What has
// left a window since counts as if it had not: when it leaves depends on how the prompt was cut into chunks.
// A window within its budget is never over it.
int CacheSchedule::prune_excess(const SequenceCache& cache) const {
  if (!prunes()) return 0;
  int excess = -kNever;
  for (int layer = 0; layer < num_layers_; ++layer) {
    const int budget = layer_budget(layer);
    if (window(layer) > 0 && window(layer) <= budget) continue;
    const BlockTable& table = cache.layer(layer);
    excess = std::max(excess, table.num_cached_tokens() + table.dropped_since_settled().total() - budget);
  }
  return excess;
}

int CacheSchedule::pack_excess(const SequenceCache& cache) const {
  const BlockTable& table = cache.layer(0);
  return packs() ? table.num_tail_tokens() + table.dropped_since_settled().num_tail - window_tokens_ : 0;
}

int CacheSchedule::max_chunk_tokens() const {
  return windows_.empty() ? kNever : kPrefillSlackTokens;
}

// The oldest block goes only when the window has left it altogether.
int CacheSchedule::most_in_window(int layer, int num_tokens, int chunk) const {
  if (window(layer) == 0) return num_tokens;
  const int unit = std::max(format_.tail_tokens_per_block, format_.packed_tokens_per_block);
  return std::min(num_tokens, window(layer) + unit + chunk);
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

// Packs all but the window where that can be done in place (cpu::can_rewrite_in_place); else as many tokens
// as fill whole tail blocks, which always can.
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
    const int more_blocks = blocks_for(format_, packable, 0) - blocks_for(format_, num_packed, 0);
    const int leaves_tail = num_tail - (kept - packable);
    const bool fits = leaves_tail >= more_blocks * unit;
    shape.num_packed = fits ? packable : num_packed + (packable - num_packed) / unit * unit;
  }
  shape.num_tail = kept - shape.num_packed;
  return shape;
}

int CacheSchedule::layer_peak_blocks(int layer, int num_tokens, bool forked) const {
  const int prompt = most_in_window(layer, std::min(num_tokens, num_prompt_tokens_), kPrefillSlackTokens);
  if (!prunes() && !packs()) {
    // A fork has no chunks of a prompt left to take.
    const int chunk = forked ? hysteresis_tokens_ : kPrefillSlackTokens;
    return blocks_for(format_, 0, most_in_window(layer, num_tokens, chunk));
  }
  // A packed layer's tail: window, hysteresis, and what did not fill a block.
  const auto blocks_of = [&](int cached, int unpacked) {
    if (!packs()) return blocks_for(format_, 0, cached);
    const int tail = std::min(cached, unpacked);
    // A shorter tail beside a packed block that is just begun takes one more.
    return blocks_for(format_, cached - tail, tail) + (cached > tail ? 1 : 0);
  };
  const int tail_slack = window_tokens_ + hysteresis_tokens_ + format_.tail_tokens_per_block;
  const int in_window = most_in_window(layer, num_tokens, hysteresis_tokens_);
  const int most_decoding =
      prunes() ? std::min(in_window, layer_budget(layer) + hysteresis_tokens_) : in_window;
  int peak = blocks_of(most_decoding, tail_slack);
  if (forked) return peak;
  // Nothing is packed before the first boundary.
  const bool prunes_early = prunes() && compression_->when == PruneWhen::kDuringPrefill;
  const int lookahead = prunes() ? compression_->lookahead_tokens * compression_->lookahead_branches : 0;
  const int most_unpacked =
      lookahead + (prunes_early ? std::min(prompt, layer_budget(layer) + kPrefillSlackTokens) : prompt);
  return std::max(peak, blocks_for(format_, 0, most_unpacked));
}

int CacheSchedule::peak_blocks(int num_tokens, bool forked) const {
  int peak = 0;
  for (int layer = 0; layer < num_layers_; ++layer) peak += layer_peak_blocks(layer, num_tokens, forked);
  return peak;
}

}  // namespace kvcrush
