// One bit per attention head and token: would this head keep the token? Tokens with like bits behave alike.
//
//   plane(0):  word of token 0 | word of token 1 | ...     bit h = head h, heads 0..63
//   plane(1):  word of token 0 | word of token 1 | ...     bit h = head 64 + h
//
// Planes rather than words side by side: every pass runs over tokens with one word of each.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kvcrush/params.h"
#include "engine/kvcrush/top_selection.h"

namespace kvcrush {

class SignatureTable {
 public:
  // All bits zero. Bits past `num_heads` stay zero.
  void reset(int num_heads, int num_tokens);
  // Sets the head's bit on every token that `cut` takes; `keys` [num_tokens] are the order keys `cut` was
  // found in.
  void set_head(int head, std::span<const std::uint32_t> keys, const TopCut& cut);

  int num_heads() const { return num_heads_; }
  int num_planes() const { return (num_heads_ + 63) / 64; }
  std::span<const std::uint64_t> plane(int index) const;  // [num_tokens]

 private:
  int num_heads_ = 0;
  std::size_t num_tokens_ = 0;
  std::vector<std::uint64_t> words_;  // [num_planes, num_tokens]
};

struct AnchorSpec {
  AnchorKind kind = AnchorKind::kMean;
  int first_head = 0;  // query head of the layer that row 0 is
  std::uint64_t seed = 0;
  int layer = 0;
};

// Writes the anchor's words [num_planes] for the table's heads. `evicted` (token indices) matters to the mean
// alone.
void make_anchor(const AnchorSpec& spec, const SignatureTable& table, std::span<const int> evicted,
                 std::vector<std::uint64_t>& anchor);

// distances[i] = number of heads, 0..num_heads, in which token evicted[i] differs from the anchor.
void hamming_distances(const SignatureTable& table, std::span<const std::uint64_t> anchor,
                       std::span<const int> evicted, std::vector<int>& distances);

}  // namespace kvcrush
