// The recommended settings, in one place: what a preset and a compression target stand for.
#include <algorithm>
#include <array>
#include <string>

#include "engine/kvcrush/params.h"

namespace kvcrush {
namespace {

constexpr std::array kTargets = {2, 4, 8, 16};
constexpr int kDefaultLookaheadTokens = 8;
constexpr int kDefaultLookaheadBranches = 2;
constexpr int kTargetOfInt4Alone = 2;  // it reaches 3 to 3.5

CompressionParams paper_params(BasePolicy policy) {
  CompressionParams params;
  params.policy = policy;
  params.representative_share = 0.25;
  params.anchor = AnchorKind::kMean;
  params.pick = RepresentativePick::kFirst;
  params.token_sets = TokenSets::kPerLayer;
  params.observed_queries = params.window_tokens;
  params.pool_kernel_tokens = policy == BasePolicy::kSnapKv ? 7 : 1;
  params.pool_shape = PoolShape::kMax;
  params.lookahead_tokens = 0;
  params.value_norm = false;
  params.layer_weight = 0.0;
  return params;
}

CompressionParams default_params(BasePolicy policy) {
  CompressionParams params;
  params.policy = policy;
  params.representative_share = 0.0;
  // Streaming scores are the same in every head: sets of their own would only repeat the work.
  params.token_sets = policy == BasePolicy::kStreaming ? TokenSets::kPerLayer : TokenSets::kPerKvHead;
  if (policy == BasePolicy::kSnapKv) {
    params.observed_queries = 16;
    params.lookahead_tokens = kDefaultLookaheadTokens;
    params.lookahead_branches = kDefaultLookaheadBranches;
  }
  params.pool_kernel_tokens = policy == BasePolicy::kSnapKv ? 21 : 1;
  params.pool_shape = policy == BasePolicy::kSnapKv ? PoolShape::kGaussian : PoolShape::kMax;
  params.value_norm = reads_attention(policy);
  params.layer_budgets = policy == BasePolicy::kSnapKv ? LayerBudgets::kRising : LayerBudgets::kUniform;
  params.layer_weight = reads_attention(policy) ? 1.0 : 0.0;
  return params;
}

}  // namespace

CompressionParams preset_params(Preset preset, BasePolicy policy) {
  return preset == Preset::kPaper ? paper_params(policy) : default_params(policy);
}

Result<CachePolicy> policy_for_target(int target) {
  if (std::find(kTargets.begin(), kTargets.end(), target) == kTargets.end()) {
    return invalid_argument("compression.target_compression is " + std::to_string(target) +
                            ", allowed: 2, 4, 8, 16");
  }
  CachePolicy policy;
  policy.kv_dtype = KvDtype::kInt4;
  if (target > kTargetOfInt4Alone) {
    policy.compression = preset_params(Preset::kDefault, BasePolicy::kSnapKv);
    policy.compression->target_compression = target;
  }
  return policy;
}

}  // namespace kvcrush
