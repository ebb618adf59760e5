// The recommended settings, in one place: what a preset and a compression target stand for.
#include <array>
#include <optional>
#include <string>

#include "engine/kvcrush/params.h"

namespace kvcrush {
namespace {

struct TargetChoice {
  int target;                           // 16-bit full-cache bytes over bytes kept
  KvDtype dtype;                        // int8 alone is a factor of 2, int4 alone of 3 to 3.5
  std::optional<double> kept_fraction;  // of the prompt's tokens; unset: all
};

constexpr std::array<TargetChoice, 4> kTargetChoices = {{
    {2, KvDtype::kInt8, std::nullopt},
    {4, KvDtype::kInt4, 0.78},
    {8, KvDtype::kInt4, 0.39},
    {16, KvDtype::kInt4, 0.19},
}};

CompressionParams paper_params(BasePolicy policy) {
  CompressionParams params;
  params.policy = policy;
  params.representative_share = 0.25;
  params.anchor = AnchorKind::kMean;
  params.pick = RepresentativePick::kFirst;
  params.token_sets = TokenSets::kPerLayer;
  params.pool_kernel_tokens = policy == BasePolicy::kSnapKv ? 7 : 1;
  params.value_norm = false;
  return params;
}

CompressionParams default_params(BasePolicy policy) {
  CompressionParams params;
  params.policy = policy;
  params.representative_share = 0.0;
  // Streaming scores are the same in every head: sets of their own would only repeat the work.
  params.token_sets = policy == BasePolicy::kStreaming ? TokenSets::kPerLayer : TokenSets::kPerKvHead;
  params.pool_kernel_tokens = policy == BasePolicy::kSnapKv ? 15 : 1;
  params.value_norm = reads_attention(policy);
  return params;
}

}  // namespace

CompressionParams preset_params(Preset preset, BasePolicy policy) {
  return preset == Preset::kPaper ? paper_params(policy) : default_params(policy);
}

Result<CachePolicy> policy_for_target(int target) {
  std::string allowed;
  for (const TargetChoice& choice : kTargetChoices) {
    allowed += (allowed.empty() ? "" : ", ") + std::to_string(choice.target);
    if (choice.target != target) continue;
    CachePolicy policy;
    policy.kv_dtype = choice.dtype;
    if (choice.kept_fraction) {
      policy.compression = preset_params(Preset::kDefault, BasePolicy::kSnapKv);
      policy.compression->budget_fraction = choice.kept_fraction;
    }
    return policy;
  }
  return invalid_argument("compression.target_compression is " + std::to_string(target) +
                          ", allowed: " + allowed);
}

}  // namespace kvcrush
