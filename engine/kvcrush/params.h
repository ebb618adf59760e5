// What a request asks of KV compression, parsed and checked (KVCrush, arXiv 2503.00022; docs/kvcrush in
// README).
#pragma once

#include <cstdint>
#include <optional>

#include "engine/core/status.h"

namespace kvcrush {

enum class BasePolicy { kSnapKv };
enum class AnchorKind { kRandom, kZeros, kOnes, kMean, kAlternating };
enum class Granularity { kToken };
enum class TokenSets { kPerLayer, kPerKvHead };
enum class RepresentativePick { kFirst, kBest };
enum class PruneWhen { kAfterPrompt, kDuringPrefill };

struct CompressionParams {
  BasePolicy policy = BasePolicy::kSnapKv;
  // Exactly one of the two is set.
  std::optional<int> budget_tokens;       // >= 1 tokens per layer, sinks and window included
  std::optional<double> budget_fraction;  // (0, 1] of the prompt's tokens
  double representative_share = 0.25;     // [0, 1] of the free budget goes to KVCrush representatives
  AnchorKind anchor = AnchorKind::kMean;
  Granularity granularity = Granularity::kToken;
  TokenSets token_sets = TokenSets::kPerLayer;
  RepresentativePick pick = RepresentativePick::kFirst;
  int num_sink_tokens = 4;     // [0, 1024] first tokens, always kept
  int window_tokens = 32;      // [1, 256] last tokens, always kept; also SnapKV's observation window
  int pool_kernel_tokens = 7;  // odd, [1, 63]; width of SnapKV's max pool
  std::uint64_t seed = 0;      // of the random anchor
  PruneWhen when = PruneWhen::kAfterPrompt;
};

// INVALID_ARGUMENT naming field ("compression.window_tokens"), value and allowed range; NaN is refused.
Status validate(const CompressionParams& params);

// Tokens a layer may keep for a prompt of this length: budget_tokens, or ceil(fraction * prompt), at least
// num_sink_tokens + window_tokens + 1 when it comes from a fraction.
int resolve_budget_tokens(const CompressionParams& params, int num_prompt_tokens);

}  // namespace kvcrush
