// Which whole blocks of kSelectionBlockTokens slots stay, for comparison with engines that cannot move
// tokens.
//
//   slots   0 ..  S ..      16b .. 16b+15 ..      n-W .. n-1
//           sinks | piece | unit | unit | ... | piece | window
//
// A unit is an aligned block that lies wholly between sinks and window; every other slot always stays. A unit
// is worth the float32 sum of its tokens' importance in slot order; its signature has one bit per token: is
// it among the better half of all tokens in units, the lower slot of equals first?
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kvcrush/kept_units.h"
#include "engine/kvcrush/select.h"
#include "engine/kvcrush/signature.h"
#include "engine/kvcrush/top_selection.h"

namespace kvcrush {

// How many slots a selection keeps is a matter of counts alone.
struct BlockCounts {
  int first_unit = 0;  // in blocks of slots
  int num_units = 0;
  int num_always = 0;  // slots outside of units
  int num_free = 0;    // units that stay
};
// num_tokens > budget_tokens >= min_budget_tokens() of block granularity.
BlockCounts count_blocks(int num_tokens, int budget_tokens, int num_sink_tokens, int window_tokens);

// Reusable scratch around one selection; not for two threads at once.
class BlockSelector {
 public:
  // Reads no scores. Kept slots, ascending, or all when there are no more than budget_tokens, which is at
  // least min_budget_tokens() of block granularity. How many: budget_tokens less 0..15, whatever the scores.
  // Valid until the next call. Allocates only when an input is larger than all before.
  std::span<const int> select(const SelectionInput& input);

 private:
  void weigh_units();
  void sign_units();
  void list_kept_slots(int first_unit_slot, int num_tokens);

  std::span<const float> unit_tokens_;  // [num_units * kSelectionBlockTokens] of the importance
  std::vector<float> unit_importance_;  // [num_units]
  SignatureTable signatures_;
  TopSelection top_;
  KeptUnits kept_;
  std::vector<int> kept_slots_;
};

}  // namespace kvcrush
