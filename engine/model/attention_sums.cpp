#include "engine/model/attention_sums.h"

#include <algorithm>

#include "engine/core/status.h"

namespace kvcrush {

void AttentionSums::grow(int num_slots) {
  KVCRUSH_CHECK(num_slots >= num_slots_);
  if (num_slots > capacity_) {
    const int larger = std::max(num_slots, capacity_ + capacity_ / 2);
    std::vector<float> moved(static_cast<std::size_t>(num_heads_) * static_cast<std::size_t>(larger));
    for (int h = 0; h < num_heads_; ++h)
      std::copy_n(row(h), num_slots_, moved.data() + static_cast<std::int64_t>(h) * larger);
    sums_ = std::move(moved);
    capacity_ = larger;
  }
  for (int h = 0; h < num_heads_; ++h) std::fill(row(h) + num_slots_, row(h) + num_slots, 0.0F);
  num_slots_ = num_slots;
}

void AttentionSums::keep(std::span<const int> kept, int num_sets, int num_kept) {
  for (int h = 0; h < num_heads_; ++h) {
    const int* sources = kept.data() + static_cast<std::ptrdiff_t>(h * num_sets / num_heads_) * num_kept;
    float* const sums = row(h);
    for (int i = 0; i < num_kept; ++i) sums[i] = sums[sources[i]];  // in place: sources[i] >= i
  }
  num_slots_ = num_kept;
}

void AttentionSums::drop_front(int num_slots) {
  KVCRUSH_CHECK(num_slots <= num_slots_);
  for (int h = 0; h < num_heads_; ++h) std::copy(row(h) + num_slots, row(h) + num_slots_, row(h));
  num_slots_ -= num_slots;
}

void AttentionSums::copy_to(std::vector<float>& out) const {
  out.resize(static_cast<std::size_t>(num_heads_) * static_cast<std::size_t>(num_slots_));
  for (int h = 0; h < num_heads_; ++h)
    std::copy_n(sums_.data() + h * stride(), num_slots_,
                out.data() + static_cast<std::ptrdiff_t>(h) * num_slots_);
}

}  // namespace kvcrush
