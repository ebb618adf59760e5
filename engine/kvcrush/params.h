// What a request asks of KV compression, parsed and checked (KVCrush, arXiv 2503.00022; docs/kvcrush.md).
#pragma once

#include <cstdint>
#include <optional>

#include "engine/core/kv_dtype.h"
#include "engine/core/status.h"

namespace kvcrush {

// Where a token's score comes from; each alone (representative_share 0) or with KVCrush on top.
enum class BasePolicy {
  kSnapKv,     // attention of the last window_tokens queries, max-pooled
  kH2o,        // attention of all queries so far
  kTova,       // attention of the last query
  kStreaming,  // the newest tokens
  kKNorm,      // keys of small norm
  kKeyDiff,    // keys unlike the mean key of their head
};
enum class AnchorKind { kRandom, kZeros, kOnes, kMean, kAlternating };
enum class Granularity { kToken, kBlock };
enum class TokenSets { kPerLayer, kPerKvHead };
enum class RepresentativePick { kFirst, kBest };
enum class PruneWhen { kAfterPrompt, kDuringPrefill };
enum class LayerBudgets { kUniform, kPyramid };
enum class SignatureHeads { kQuery, kKv };
enum class Preset { kDefault, kPaper };

// Tokens of a unit of Granularity::kBlock, as in the peer it is compared with; not the pool's block.
inline constexpr int kSelectionBlockTokens = 16;

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
  int pool_kernel_tokens = 7;  // odd, [1, 63]; width of the max pool over attention scores; 1: none
  bool value_norm = false;     // scores are multiplied by the norm of what the token would write
  std::uint64_t seed = 0;      // of the random anchor
  PruneWhen when = PruneWhen::kAfterPrompt;
  LayerBudgets layer_budgets = LayerBudgets::kUniform;
  SignatureHeads signature_heads = SignatureHeads::kQuery;
};

// How one sequence's KV cache is kept.
struct CachePolicy {
  std::optional<CompressionParams> compression;  // unset: every token stays
  std::optional<KvDtype> kv_dtype;               // unset: the engine's
};

// The values that a preset gives to every field but the budget, on top of `policy`. kPaper is the published
// recipe; kDefault is what won on the development data (docs/results/kvcrush.md).
CompressionParams preset_params(Preset preset, BasePolicy policy);

// Whether the policy reads attention; value_norm and a pool wider than 1 need one that does.
bool reads_attention(BasePolicy policy);

// INVALID_ARGUMENT naming field ("compression.window_tokens"), value and allowed range; NaN is refused.
Status validate(const CompressionParams& params);

// Tokens a layer may keep for a prompt of this length, on average over layers: budget_tokens, or
// ceil(fraction * prompt), at least min_budget_tokens() when it comes from a fraction.
int resolve_budget_tokens(const CompressionParams& params, int num_prompt_tokens);

// Least budget that leaves something to choose: num_sink_tokens + window_tokens + 1 token, or one block and
// 15 more tokens on either side, since slots of blocks cut by sinks or window stay too.
int min_budget_tokens(const CompressionParams& params);

// Budget of one layer when the mean over `num_layers` layers is `budget_tokens`. Pyramid: the free part falls
// linearly from 1.5 times the mean in the first layer to half of it in the last, rounded down; a single layer
// gets the mean. Never below min_budget_tokens(), so a mean close to that is exceeded by the last layers.
int layer_budget_tokens(const CompressionParams& params, int budget_tokens, int layer, int num_layers);

// A compression target's choice of budget and dtype, from the measured frontier (docs/results/kvcrush.md).
// `target` is one of 2, 4, 8, 16: 16-bit full-cache bytes over bytes kept. INVALID_ARGUMENT for others.
Result<CachePolicy> policy_for_target(int target);

}  // namespace kvcrush
