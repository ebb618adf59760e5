#include "engine/kvcrush/token_scores.h"

#include <algorithm>
#include <array>
#include <cmath>
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

// `padded` holds a row with half a kernel of room at either end; destroys it.
void max_pool(int kernel, std::span<float> padded, std::span<float> out) {
  const auto half = static_cast<std::ptrdiff_t>(kernel / 2);
  std::fill_n(padded.begin(), half, -std::numeric_limits<float>::infinity());
  std::fill(padded.end() - half, padded.end(), -std::numeric_limits<float>::infinity());
  const int width = widen_maxima(padded, kernel);
  // Two windows of `width` that overlap cover the kernel.
  const float* const low = padded.data();
  const float* const high = low + (kernel - width);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = std::max(low[i], high[i]);
}

void set_gaussian_weights(int kernel, std::vector<float>& weights) {
  std::array<double, kMaxPoolKernelTokens> bell;
  double total = 0.0;
  for (int i = 0; i < kernel; ++i) {
    const double deviations = (i - kernel / 2) / (kernel / 4.0);
    bell[static_cast<std::size_t>(i)] = std::exp(-0.5 * (deviations * deviations));
    total += bell[static_cast<std::size_t>(i)];
  }
  weights.resize(static_cast<std::size_t>(kernel));
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(bell[i] / total);
}

// `padded` as for max_pool. Tokens go in pieces that stay in the first-level cache over all taps.
void weighted_pool(std::span<const float> weights, std::span<float> padded, std::span<float> out) {
  constexpr std::size_t kPieceTokens = 1024;
  const auto half = static_cast<std::ptrdiff_t>(weights.size() / 2);
  std::fill_n(padded.begin(), half, 0.0f);
  std::fill(padded.end() - half, padded.end(), 0.0f);
  for (std::size_t begin = 0; begin < out.size(); begin += kPieceTokens) {
    const std::size_t count = std::min(kPieceTokens, out.size() - begin);
    float* const sums = out.data() + begin;
    std::fill_n(sums, count, 0.0f);
    for (std::size_t tap = 0; tap < weights.size(); ++tap) {
      const float weight = weights[tap];
      const float* const values = padded.data() + begin + tap;
      for (std::size_t i = 0; i < count; ++i) sums[i] += weight * values[i];
    }
  }
}

std::size_t to_size(int value) {
  return static_cast<std::size_t>(value);
}

void divide(std::span<const float> dividends, float divisor, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = dividends[i] / divisor;
}

void multiply(std::span<const float> factors, std::span<float> values) {
  for (std::size_t i = 0; i < values.size(); ++i) values[i] *= factors[i];
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
  KVCRUSH_CHECK(!params.value_norm || observation.value_norms.size() == num_rows * candidates.num_tokens);
  const int kernel = params.pool_kernel_tokens;
  KVCRUSH_CHECK(kernel >= 1 && kernel <= kMaxPoolKernelTokens && kernel % 2 == 1);
  const int divisor = params.policy == BasePolicy::kH2o ? 1 : observation.num_queries;
  KVCRUSH_CHECK(divisor >= 1);
  const bool is_gaussian = params.pool_shape == PoolShape::kGaussian;
  if (is_gaussian) set_gaussian_weights(kernel, scratch.pool_weights);
  scratch.padded_row.resize(candidates.count + to_size(kernel) - 1);
  const std::span<float> values =
      std::span<float>(scratch.padded_row).subspan(to_size(kernel / 2), candidates.count);
  for (std::size_t row = 0; row < num_rows; ++row) {
    divide(candidates.of(observation.probability_sums, row), static_cast<float>(divisor), values);
    if (params.value_norm) multiply(candidates.of(observation.value_norms, row), values);
    const std::span<float> out = candidates.row_of(scores, row);
    if (is_gaussian) {
      weighted_pool(scratch.pool_weights, scratch.padded_row, out);
    } else {
      max_pool(kernel, scratch.padded_row, out);
    }
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

// What no later query sees comes after everything else.
void sink_unseen(const LayerObservation& observation, const Candidates& candidates, std::span<float> scores) {
  const std::size_t num_rows = to_size(observation.num_heads);
  KVCRUSH_CHECK(observation.num_unseen.size() == to_size(observation.num_kv_heads));
  for (std::size_t row = 0; row < num_rows; ++row) {
    const std::size_t kv_head = row / (num_rows / observation.num_unseen.size());
    const std::size_t end_slot = to_size(observation.num_unseen[kv_head]);
    if (end_slot <= candidates.first_slot) continue;
    const std::span<float> values = candidates.row_of(scores, row);
    const std::size_t unseen = std::min(end_slot - candidates.first_slot, values.size());
    const float lowest = *std::min_element(values.begin(), values.end());
    std::fill_n(values.begin(), unseen, lowest - 1.0f);
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
  if (!observation.num_unseen.empty()) sink_unseen(observation, candidates, scores);
}

}  // namespace kvcrush
