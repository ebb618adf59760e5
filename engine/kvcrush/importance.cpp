#include "engine/kvcrush/importance.h"

#include <algorithm>
#include <cstddef>

#include "engine/core/status.h"

namespace kvcrush {

void sum_over_heads(std::span<const float> scores, int num_heads, std::span<float> sums) {
  const std::size_t count = sums.size();
  KVCRUSH_CHECK(num_heads >= 1 && scores.size() == static_cast<std::size_t>(num_heads) * count);
  std::copy_n(scores.begin(), count, sums.begin());
  float* const totals = sums.data();
  for (std::size_t head = 1; head < static_cast<std::size_t>(num_heads); ++head) {
    const float* const row = scores.data() + head * count;
    for (std::size_t i = 0; i < count; ++i) totals[i] += row[i];
  }
}

void weigh_tokens(std::span<const float> scores, int num_heads, int num_sets, double layer_weight,
                  std::vector<float>& layer_sums, std::span<float> importance) {
  KVCRUSH_CHECK(num_sets >= 1 && num_heads % num_sets == 0);
  const std::size_t num_rows = static_cast<std::size_t>(num_sets);
  const std::size_t count = importance.size() / num_rows;
  for (std::size_t set = 0; set < num_rows; ++set) {
    const std::size_t set_size = scores.size() / num_rows;
    sum_over_heads(scores.subspan(set * set_size, set_size), num_heads / num_sets,
                   importance.subspan(set * count, count));
  }
  if (layer_weight == 0.0) return;
  layer_sums.resize(count);
  sum_over_heads(importance, num_sets, layer_sums);
  const auto weight = static_cast<float>(layer_weight);
  const auto divisor = static_cast<float>(num_sets);
  for (float& sum : layer_sums) sum = weight * (sum / divisor);
  const float* const shared = layer_sums.data();
  for (std::size_t set = 0; set < num_rows; ++set) {
    float* const own = importance.data() + set * count;
    for (std::size_t i = 0; i < count; ++i) own[i] += shared[i];
  }
}

}  // namespace kvcrush
