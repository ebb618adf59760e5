// Which cached tokens stay: the important ones and representatives of the rest (docs: kvcrush.md, steps 2-8).
// Another granularity (block) is another class beside Selector: its unit is a block and its signature one bit
// per token of it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kvcrush/params.h"
#include "engine/kvcrush/signature.h"
#include "engine/kvcrush/top_selection.h"

namespace kvcrush {

struct SelectionInput {
  // [num_heads, num_candidates], finite; candidates are slots num_sink_tokens .. num_tokens - window_tokens
  // - 1. Ignored when num_tokens <= budget_tokens.
  std::span<const float> scores;
  int num_heads = 0;
  int first_head = 0;  // query head of the layer that row 0 is: random and alternating anchors go by it
  int num_tokens = 0;
  int budget_tokens = 0;  // > num_sink_tokens + window_tokens
  int num_sink_tokens = 0;
  int window_tokens = 0;
  double representative_share = 0.0;  // [0, 1]
  AnchorKind anchor = AnchorKind::kMean;
  RepresentativePick pick = RepresentativePick::kFirst;
  std::uint64_t seed = 0;
  int layer = 0;
};

// Reusable scratch around one selection; not for two threads at once.
class Selector {
 public:
  // Kept slots, ascending: exactly budget_tokens of them, or all when there are no more than that. Valid
  // until the next call. Allocates only when an input is larger than all before.
  std::span<const int> select(const SelectionInput& input);

 private:
  void sum_importance(const SelectionInput& input);
  // Marks the important candidates as kept and lists the others in evicted_.
  void split_by_importance(int num_important);
  void mark_representatives(const SelectionInput& input, int num_free, int num_representatives);
  void sign_tokens(const SelectionInput& input, int num_free);
  // Fills order_ with evicted_ by (distance, slot).
  void sort_by_distance(int num_heads);
  int pick_from_group(std::span<const int> group, RepresentativePick pick) const;
  void list_kept_slots(const SelectionInput& input);

  // Indices below are candidates: slot minus num_sink_tokens.
  std::vector<float> importance_;    // [num_candidates]
  std::vector<std::uint8_t> keeps_;  // [num_candidates]
  std::vector<int> evicted_;         // ascending
  std::vector<int> distances_;       // [evicted]
  std::vector<int> bucket_ends_;     // [num_heads + 1]
  std::vector<int> order_;           // [evicted]
  std::vector<std::uint64_t> anchor_;
  std::vector<int> kept_slots_;
  TopSelection top_;
  SignatureTable signatures_;
};

}  // namespace kvcrush
