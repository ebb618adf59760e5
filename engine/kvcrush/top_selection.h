// The largest `count` of many floats without sorting them: a radix search over the floats' bits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kvcrush {

// Separates taken from left elements. Of elements equal to the smallest taken one, the lower indices are
// taken.
struct TopCut {
  std::uint32_t key = 0;   // order key of the smallest taken value
  int last_tie_index = 0;  // elements with that key are taken up to this index

  bool takes(std::uint32_t element_key, int index) const {
    return (element_key > key) | ((element_key == key) & (index <= last_tie_index));
  }
};

class TopSelection {
 public:
  // The cut around the `count` largest of `values` (finite; -0 equals +0), 0 <= count <= values.size().
  // Linear time; no allocation once `values` was as long before.
  TopCut find(std::span<const float> values, int count);

  // Order keys of the last find()'s values: unsigned integers that compare as the floats do.
  std::span<const std::uint32_t> keys() const { return keys_; }

 private:
  std::vector<std::uint32_t> keys_;
  std::vector<std::uint32_t> members_;  // keys that share the digits fixed so far
};

}  // namespace kvcrush
