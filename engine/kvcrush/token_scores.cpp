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

void mean_and_pool_row(std::span<const float> sums, float num_queries, int kernel, std::span<float> padded,
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

std::size_t to_size(int value) {
  return static_cast<std::size_t>(value);
}

// The part of one layer that scores are made of, row by row.
struct Candidates {
  std::size_t first_slot;
  std::size_t count;
  std::size_t num_tokens;

  // Of `values` [rows, num_tokens], as many as `count`.
  std::span<const float> of(std::span<const float> values, std::size_t row) const {
    return values.subspan(row * num_tokens + first_slot, count);
  }
  // Of `scores` [rows, count].
  std::span<float> row_of(std::span<float> scores, std::size_t row) const {
    return scores.subspan(row * count, count);
  }
};

void attention_scores(const CompressionParams& params, const LayerObservation& observation,
                      const Candidates& candidates, ScoreScratch& scratch, std::span<float> scores) {
  const std::size_t num_rows = to_size(observation.num_heads);
  KVCRUSH_CHECK(observation.probability_sums.size() == num_rows * candidates.num_tokens);
  const int kernel = params.pool_kernel_tokens;
  KVCRUSH_CHECK(kernel >= 1 && kernel % 2 == 1);
  const int divisor = params.policy == BasePolicy::kH2o ? 1 : observation.num_queries;
  KVCRUSH_CHECK(divisor >= 1);
  scratch.padded_row.resize(candidates.count + to_size(kernel) - 1);
  for (std::size_t row = 0; row < num_rows; ++row) {
    mean_and_pool_row(candidates.of(observation.probability_sums, row), static_cast<float>(divisor), kernel,
                      scratch.padded_row, candidates.row_of(scores, row));
  }
}

void slot_scores(const Candidates& candidates, std::size_t num_rows, std::span<float> scores) {
  for (std::size_t i = 0; i < candidates.count; ++i) {
    scores[i] = static_cast<float>(candidates.first_slot + i);
  }
  for (std::size_t row = 1; row < num_rows; ++row) {
    std::copy_n(scores.begin(), candidates.count, candidates.row_of(scores, row).begin());
  }
}

void key_scores(const LayerObservation& observation, const Candidates& candidates, std::span<float> scores) {
  const std::size_t num_kv_heads = to_size(observation.num_kv_heads);
  KVCRUSH_CHECK(observation.key_scores.size() == num_kv_heads * candidates.num_tokens);
  const std::size_t num_rows = to_size(observation.num_heads);
  for (std::size_t row = 0; row < num_rows; ++row) {
    const auto source = candidates.of(observation.key_scores, row / (num_rows / num_kv_heads));
    std::copy(source.begin(), source.end(), candidates.row_of(scores, row).begin());
  }
}

void multiply_by_value_norms(const LayerObservation& observation, const Candidates& candidates,
                             std::span<float> scores) {
  const std::size_t num_rows = to_size(observation.num_heads);
  KVCRUSH_CHECK(observation.value_norms.size() == num_rows * candidates.num_tokens);
  for (std::size_t row = 0; row < num_rows; ++row) {
    const float* const norms = candidates.of(observation.value_norms, row).data();
    float* const products = candidates.row_of(scores, row).data();
    for (std::size_t i = 0; i < candidates.count; ++i) products[i] *= norms[i];
  }
}

}  // namespace

void token_scores(const CompressionParams& params, const LayerObservation& observation, ScoreScratch& scratch,
                  std::span<float> scores) {
  const int num_candidates = observation.num_tokens - params.num_sink_tokens - params.window_tokens;
  KVCRUSH_CHECK(num_candidates >= 1 && observation.num_heads >= 1 && observation.num_kv_heads >= 1 &&
                observation.num_heads % observation.num_kv_heads == 0);
  const Candidates candidates{to_size(params.num_sink_tokens), to_size(num_candidates),
                              to_size(observation.num_tokens)};
  KVCRUSH_CHECK(scores.size() == to_size(observation.num_heads) * candidates.count);
  switch (params.policy) {
    case BasePolicy::kSnapKv:
    case BasePolicy::kH2o:
    case BasePolicy::kTova:
      attention_scores(params, observation, candidates, scratch, scores);
      break;
    case BasePolicy::kStreaming:
      slot_scores(candidates, to_size(observation.num_heads), scores);
      break;
    case BasePolicy::kKNorm:
    case BasePolicy::kKeyDiff:
      key_scores(observation, candidates, scores);
      break;
  }
  if (params.value_norm) multiply_by_value_norms(observation, candidates, scores);
}

void sum_over_heads(std::span<const float> scores, int num_heads, std::span<float> importance) {
  const std::size_t count = importance.size();
  KVCRUSH_CHECK(num_heads >= 1 && scores.size() == to_size(num_heads) * count);
  std::copy_n(scores.begin(), count, importance.begin());
  float* const sums = importance.data();
  for (std::size_t head = 1; head < to_size(num_heads); ++head) {
    const float* const row = scores.data() + head * count;
    for (std::size_t i = 0; i < count; ++i) sums[i] += row[i];
  }
}

}  // namespace kvcrush
