// Which cached tokens stay: the important ones and representatives of the rest (docs: kvcrush.md, steps 2-8).
// Token by token; whole blocks: block_select.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kvcrush/kept_units.h"
#include "engine/kvcrush/params.h"
#include "engine/kvcrush/signature.h"
#include "engine/kvcrush/top_selection.h"

namespace kvcrush {

struct SelectionInput {
  // Both ignored when num_tokens <= budget_tokens; finite. Candidates are slots num_sink_tokens .. num_tokens
  // - window_tokens - 1.
  std::span<const float> importance = {};  // [num_candidates] what each is worth
  std::span<const float> scores = {};  // [num_heads, num_candidates] what each head thinks of it: signatures
  int num_heads = 0;
  int first_head = 0;  // query head of the layer that row 0 is: random and alternating anchors go by it
  // Neighbouring heads that share one bit, set where any of them wants the token: 1, or the query heads of a
  // KV head. Divides num_heads and first_head. Block signatures have no bits of heads and ignore it.
  int heads_per_bit = 1;
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
  void sign_tokens(const SelectionInput& input, int num_free);
  void list_kept_slots(const SelectionInput& input);

  // Indices are candidates: slot minus num_sink_tokens.
  SignatureTable signatures_;
  TopSelection top_;
  KeptUnits kept_;
  std::vector<int> kept_slots_;
};

}  // namespace kvcrush
