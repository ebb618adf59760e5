// Which units of a row (tokens, or blocks of tokens) stay: the most important ones and representatives of the
// rest (docs: kvcrush.md, steps 2, 3 and 5-7). What a unit is, what it is worth and how it is signed is the
// caller's business.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kvcrush/params.h"
#include "engine/kvcrush/signature.h"
#include "engine/kvcrush/top_selection.h"

namespace kvcrush {

// How `num_free` units are shared out: floor(share * num_free) go to representatives.
struct FreeUnits {
  int num_important = 0;
  int num_representatives = 0;
};
FreeUnits share_out(int num_free, double representative_share);

// Reusable scratch; allocates only when a row is longer than all before.
class KeptUnits {
 public:
  // Starts a row: keeps the `count` units of largest `importance` [num_units], the lower of equals.
  void keep_most_important(std::span<const float> importance, int count);

  // Keeps one unit from each of `count` groups of the others, 1 <= count <= how many these are. Groups are
  // cut from the order by (Hamming distance to the anchor, unit). `importance` as before; `signatures` of all
  // its units.
  void keep_representatives(std::span<const float> importance, const SignatureTable& signatures,
                            const AnchorSpec& anchor, RepresentativePick pick, int count);

  std::span<const std::uint8_t> flags() const { return flags_; }  // [num_units], 1: stays

 private:
  // Fills order_ with evicted_ by (distance, unit).
  void sort_by_distance(int num_bits);

  std::vector<std::uint8_t> flags_;  // [num_units]
  std::vector<int> evicted_;         // ascending
  std::vector<int> distances_;       // [evicted]
  std::vector<int> bucket_ends_;     // [num_bits + 1]
  std::vector<int> order_;           // [evicted]
  std::vector<std::uint64_t> anchor_;
  TopSelection top_;
};

}  // namespace kvcrush
