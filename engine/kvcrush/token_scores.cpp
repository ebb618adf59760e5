#include "engine/kvcrush/token_scores.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "engine/core/status.h"

namespace kvcrush {
namespace {

// padded[i] becomes the maximum of padded[i .. i + width - 1], width the largest power of two <= kernel. Each
// doubling reads ahead of what it writes, so it runs in place and in vector registers; that beats van Herk's
// two serial passes for every kernel we allow (<= 63: at most five doublings).
int widen_maxima(std::span<float> padded, int kernel) {
  int width = 1;
  for (; 2 * width <= kernel; width *= 2) {
    float* const values = padded.data();
    const std::size_t num_values = padded.size() - static_cast<std::size_t>(width);
    for (std::size_t i = 0; i < num_values; ++i)
      values[i] = std::max(values[i], values[i + static_cast<std::size_t>(width)]);
  }
  return width;
}

void mean_and_pool_row(std::span<const float> sums, float num_queries, int kernel, std::vector<float>& padded,
                       std::span<float> out) {
  const std::size_t half = static_cast<std::size_t>(kernel / 2);
  for (std::size_t i = 0; i < sums.size(); ++i) padded[half + i] = sums[i] / num_queries;
  std::fill_n(padded.begin(), half, -std::numeric_limits<float>::infinity());
  std::fill(padded.begin() + static_cast<std::ptrdiff_t>(half + sums.size()), padded.end(),
            -std::numeric_limits<float>::infinity());
  const int width = widen_maxima(padded, kernel);
  // Two windows of `width` that overlap cover the kernel.
  const float* const low = padded.data();
  const float* const high = low + (kernel - width);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = std::max(low[i], high[i]);
}

}  // namespace

void snapkv_scores(const AttentionObservation& observation, const CandidateRange& range,
                   int pool_kernel_tokens, ScoreScratch& scratch, std::span<float> scores) {
  const int num_candidates = observation.num_tokens - range.num_sink_tokens - range.window_tokens;
  KVCRUSH_CHECK(observation.num_queries >= 1 && num_candidates >= 1);
  KVCRUSH_CHECK(pool_kernel_tokens >= 1 && pool_kernel_tokens % 2 == 1);
  const auto row_size = static_cast<std::size_t>(observation.num_tokens);
  const auto out_size = static_cast<std::size_t>(num_candidates);
  const auto num_rows = static_cast<std::size_t>(observation.num_heads);
  KVCRUSH_CHECK(observation.probability_sums.size() == num_rows * row_size &&
                scores.size() == num_rows * out_size);
  scratch.padded_row.resize(out_size + static_cast<std::size_t>(pool_kernel_tokens) - 1);
  for (std::size_t row = 0; row < num_rows; ++row) {
    const auto first = row * row_size + static_cast<std::size_t>(range.num_sink_tokens);
    mean_and_pool_row(observation.probability_sums.subspan(first, out_size),
                      static_cast<float>(observation.num_queries), pool_kernel_tokens, scratch.padded_row,
                      scores.subspan(row * out_size, out_size));
  }
}

}  // namespace kvcrush
