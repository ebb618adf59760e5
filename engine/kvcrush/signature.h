// One row of bits per unit; units with like bits behave alike. A unit is a token with one bit per attention
// head (would this head keep the token?), or a block with one bit per token of it (is the token among the
// better half?).
//
//   plane(0):  word of unit 0 | word of unit 1 | ...     bit i of a word = bit i, 0..63
//   plane(1):  word of unit 0 | word of unit 1 | ...     bit i of a word = bit 64 + i
//
// Planes rather than words side by side: every pass runs over units with one word of each.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kvcrush/params.h"
#include "engine/kvcrush/top_selection.h"

namespace kvcrush {

class SignatureTable {
 public:
  // All bits zero. Bits past `num_bits` stay zero.
  void reset(int num_bits, int num_units);
  // Sets one bit on every unit that `cut` takes and leaves it as it is on the others; `keys` [num_units] are
  // the order keys `cut` was found in.
  void set_bit(int bit, std::span<const std::uint32_t> keys, const TopCut& cut);
  // Sets bit i of unit u where `cut` takes key u * num_bits + i; `keys` [num_units * num_bits], num_bits
  // <= 64.
  void set_members(std::span<const std::uint32_t> keys, const TopCut& cut);

  int num_bits() const { return num_bits_; }
  int num_planes() const { return (num_bits_ + 63) / 64; }
  std::span<const std::uint64_t> plane(int index) const;  // [num_units]

 private:
  int num_bits_ = 0;
  std::size_t num_units_ = 0;
  std::vector<std::uint64_t> words_;  // [num_planes, num_units]
};

struct AnchorSpec {
  AnchorKind kind = AnchorKind::kMean;
  int first_bit = 0;  // what bit 0 is in the layer (its head): random and alternating anchors go by it
  std::uint64_t seed = 0;
  int layer = 0;
};

// Writes the anchor's words [num_planes] for the table's bits. `evicted` (unit indices) matters to the mean
// alone.
void make_anchor(const AnchorSpec& spec, const SignatureTable& table, std::span<const int> evicted,
                 std::vector<std::uint64_t>& anchor);

// distances[i] = number of bits, 0..num_bits, in which unit evicted[i] differs from the anchor.
void hamming_distances(const SignatureTable& table, std::span<const std::uint64_t> anchor,
                       std::span<const int> evicted, std::vector<int>& distances);

}  // namespace kvcrush
