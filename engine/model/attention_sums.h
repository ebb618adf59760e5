// How much each cached slot of one layer was attended to so far, by query head (h2o). Rows keep room to grow,
// so that a decoded token costs no allocation.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kvcrush {

class AttentionSums {
 public:
  explicit AttentionSums(int num_heads) : num_heads_(num_heads) {}

  int num_slots() const { return num_slots_; }
  std::int64_t stride() const { return capacity_; }  // floats from one head's row to the next
  float* row(int head) { return sums_.data() + head * stride(); }

  // Room for slots up to `num_slots`; new ones start at zero.
  void grow(int num_slots);
  // Slot i of head h takes what slot kept[set of h][i] has; kept: [num_sets, num_kept], each row ascending.
  void keep(std::span<const int> kept, int num_sets, int num_kept);
  // The first slots are gone.
  void drop_front(int num_slots);
  // [num_heads, num_slots]
  void copy_to(std::vector<float>& out) const;

 private:
  int num_heads_;
  int num_slots_ = 0;
  int capacity_ = 0;
  std::vector<float> sums_;  // [num_heads, capacity]
};

}  // namespace kvcrush
