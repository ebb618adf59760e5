// When a sequence's cache is pruned and packed, and into what shape.
//
// Boundaries depend only on the sequence itself, never on how steps were batched, so that a sequence that is
// recomputed after preemption is settled at the same places and yields the same tokens.
//
//   prompt, kDuringPrefill   whenever kPrefillSlackTokens more than the budget are cached
//   prompt's end             always; where the policy looks ahead, once it has (Lookahead)
//   decode                   whenever hysteresis_tokens() more than the budget are cached, or as many tokens
//                            beyond the window wait to be packed
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "engine/kernels/cpu/kv_layout.h"
#include "engine/kv_cache/sequence_cache.h"
#include "engine/kvcrush/params.h"

namespace kvcrush {

// What is due at a boundary.
struct Settling {
  bool prune = false;
  bool pack = false;
  explicit operator bool() const { return prune || pack; }
};

class CacheSchedule {
 public:
  CacheSchedule() = default;  // never settles
  // windows: tokens that a layer's queries see (0: all), [num_layers]; empty: all layers see everything.
  CacheSchedule(const CachePolicy& policy, const cpu::KvFormat& format, int num_prompt_tokens, int num_layers,
                std::vector<int> windows = {});

  bool prunes() const { return compression_.has_value(); }
  bool packs() const { return format_.packed_tokens_per_block > 0; }
  int budget_tokens() const { return budget_tokens_; }  // mean over layers; 0: never prunes
  int layer_budget(int layer) const;
  int least_budget() const;  // of any layer
  // Newest tokens that pruning keeps and packing leaves alone.
  int window_tokens() const { return window_tokens_; }
  // At least the window, so that every observed query has seen just what is cached; a 32nd of the budget, so
  // that long budgets are not pruned all the time; a multiple of the tail's block.
  int hysteresis_tokens() const { return hysteresis_tokens_; }

  // Most tokens that may be appended at a time: what leaves a layer's window is given back after them.
  int max_chunk_tokens() const;
  // Tokens that may be appended before the next boundary (>= 1), with `num_computed` logical ones.
  int tokens_to_boundary(int num_computed, const SequenceCache& cache) const;
  // What to do once `num_computed` tokens are in; `cache` holds them already.
  Settling due(int num_computed, const SequenceCache& cache) const;
  // Shape of a layer after that.
  SequenceCache::LayerShape settled_shape(int layer, const Settling& settling, int num_packed,
                                          int num_tail) const;
  // Most blocks that all layers hold at a time while a sequence of `num_tokens` tokens is computed from
  // nothing, or (forked) from a trunk that holds the prompt.
  int peak_blocks(int num_tokens, bool forked) const;

  static constexpr int kPrefillSlackTokens = 512;  // fewer prunes, at the price of that much more memory

 private:
  int prune_threshold(int num_computed) const;  // excess at which it is due
  int pack_threshold(int num_computed) const;
  int prune_excess(const SequenceCache& cache) const;
  int pack_excess(const SequenceCache& cache) const;
  int block_capacity(int num_blocks) const;
  void fill_target_budgets(int target);
  int layer_peak_blocks(int layer, int num_tokens, bool forked) const;
  int window(int layer) const { return windows_.empty() ? 0 : windows_[static_cast<std::size_t>(layer)]; }
  // Most of a layer's `num_tokens` tokens that are there at a time, appended in chunks of up to `chunk`.
  int most_in_window(int layer, int num_tokens, int chunk) const;

  std::optional<CompressionParams> compression_;
  cpu::KvFormat format_;
  int num_prompt_tokens_ = 0;
  int num_layers_ = 0;
  std::vector<int> windows_;  // [num_layers] or empty
  int budget_tokens_ = 0;
  std::vector<int> target_budgets_;  // [num_layers]; empty: layer_budget_tokens() says
  int window_tokens_ = 0;
  int hysteresis_tokens_ = 0;
};

}  // namespace kvcrush
