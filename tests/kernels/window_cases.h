// Slots that have positions of their own, as pruning leaves them in a layer with a sliding window.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <random>
#include <vector>

namespace kvcrush::testing {

// [num_kv_heads, num_placed]: of the first num_placed + num_evicted tokens those that stayed, by KV head.
inline std::vector<std::int32_t> random_positions(int num_kv_heads, int num_placed, int num_evicted,
                                                  std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<std::int32_t> all(static_cast<std::size_t>(num_placed + num_evicted));
  std::iota(all.begin(), all.end(), 0);
  std::vector<std::int32_t> positions;
  for (int h = 0; h < num_kv_heads; ++h)
    std::sample(all.begin(), all.end(), std::back_inserter(positions), num_placed, engine);
  return positions;
}

}  // namespace kvcrush::testing
