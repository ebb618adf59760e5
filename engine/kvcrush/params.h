// What a request asks of KV compression, parsed and checked (KVCrush, arXiv 2503.00022; docs/kvcrush.md).
#pragma once

#include <cstdint>
#include <optional>

#include "engine/core/kv_dtype.h"
#include "engine/core/status.h"

namespace kvcrush {

// Where a token's score comes from; each alone (representative_share 0) or with KVCrush on top.
enum class BasePolicy {
  kSnapKv,     // attention of the last observed_queries queries, pooled
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
enum class LayerBudgets { kUniform, kPyramid, kRising };
enum class SignatureHeads { kQuery, kKv };
// How attention scores spread to neighbours: the largest within the kernel, or a mean weighted by a bell of
// standard deviation kernel / 4.
enum class PoolShape { kMax, kGaussian };
enum class Preset { kDefault, kPaper };

// Tokens of a unit of Granularity::kBlock, as in the peer it is compared with; not the pool's block.
inline constexpr int kSelectionBlockTokens = 16;

inline constexpr int kMaxPoolKernelTokens = 63;
inline constexpr int kMaxLookaheadTokens = 64;
inline constexpr int kMaxLookaheadBranches = 4;

struct CompressionParams {
  BasePolicy policy = BasePolicy::kSnapKv;
  // Exactly one of the three is set.
  std::optional<int> budget_tokens;       // >= 1 tokens per layer, sinks and window included
  std::optional<double> budget_fraction;  // (0, 1] of the prompt's tokens
  // As many tokens as fit one so many-th of the pool bytes that the prompt takes at 16 bit, [2, 64].
  std::optional<int> target_compression;
  double representative_share = 0.25;  // [0, 1] of the free budget goes to KVCrush representatives
  AnchorKind anchor = AnchorKind::kMean;
  Granularity granularity = Granularity::kToken;
  TokenSets token_sets = TokenSets::kPerLayer;
  RepresentativePick pick = RepresentativePick::kFirst;
  int num_sink_tokens = 4;  // [0, 1024] first tokens, always kept
  int window_tokens = 32;   // [1, 256] last tokens, always kept
  // [1, window_tokens] snapkv: how many of the window's last queries are asked. Other policies do not read
  // it.
  int observed_queries = 32;
  // [0, 64] snapkv: before the first prune the full cache goes on by so many likeliest tokens, their queries
  // are asked too, and then they are forgotten.
  int lookahead_tokens = 0;
  int lookahead_branches = 1;              // [1, 4], from as many likeliest first tokens
  int pool_kernel_tokens = 7;              // odd, [1, 63]; width of the pool over attention scores; 1: none
  PoolShape pool_shape = PoolShape::kMax;  // another: a pool of 3 or wider
  bool value_norm = false;                 // attention is multiplied by the norm of the token's value
  double layer_weight = 0.0;  // [0, 4] per-KV-head sets: weight of the layer's mean beside the head's own
  std::uint64_t seed = 0;     // of the random anchor
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
// ceil(fraction * prompt), at least min_budget_tokens() when it comes from a fraction. Not for a
// target_compression, which goes by bytes (CacheSchedule).
int resolve_budget_tokens(const CompressionParams& params, int num_prompt_tokens);

// Least budget that leaves something to choose: num_sink_tokens + window_tokens + 1 token, or one block and
// 15 more tokens on either side, since slots of blocks cut by sinks or window stay too.
int min_budget_tokens(const CompressionParams& params);

// Budget of one layer when the mean over `num_layers` layers is `budget_tokens`. Pyramid: the free part falls
// linearly from 1.5 times the mean in the first layer to half of it in the last, rounded down; a single layer
// gets the mean. Rising: the reverse. Never below min_budget_tokens(), so a mean close to that is exceeded by
// the last layers.
int layer_budget_tokens(const CompressionParams& params, int budget_tokens, int layer, int num_layers);

// A compression target's choice of dtype and budget, from the measured frontier (docs/results/kvcrush.md):
// int4 whatever the target, for it costs ten times less than dropping tokens does, and the default preset's
// pruning for what is missing beyond its factor of 3.5. `target` is one of 2, 4, 8, 16: 16-bit full-cache
// bytes over bytes kept. INVALID_ARGUMENT for others.
Result<CachePolicy> policy_for_target(int target);

}  // namespace kvcrush
