#include "engine/kvcrush/params.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <string>

namespace kvcrush {
namespace {

constexpr int kMaxSinkTokens = 1024;
constexpr int kMaxWindowTokens = 256;
constexpr double kMaxLayerWeight = 4.0;
constexpr int kMaxTargetCompression = 64;

// At worst the block after the sinks and the one before the window are cut, each by all but one token; these
// pieces stay too.
constexpr int kMinFreeBlockTokens = 2 * (kSelectionBlockTokens - 1) + kSelectionBlockTokens;

std::string to_text(int value) {
  return std::to_string(value);
}

// The shortest digits that read back as the same number: 1.5, -1, 1e-09.
std::string to_text(double value) {
  if (std::isnan(value)) return "nan";
  std::array<char, 32> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  return {digits.data(), end};
}

Status refuse(const char* field, const std::string& value, const std::string& allowed) {
  return invalid_argument(std::string("compression.") + field + " is " + value + ", allowed: " + allowed);
}

Status check_range(const char* field, int value, int low, int high) {
  if (value >= low && value <= high) return {};
  return refuse(field, to_text(value), "[" + to_text(low) + ", " + to_text(high) + "]");
}

const char* name_of(BasePolicy policy) {
  switch (policy) {
    case BasePolicy::kSnapKv:
      return "snapkv";
    case BasePolicy::kH2o:
      return "h2o";
    case BasePolicy::kTova:
      return "tova";
    case BasePolicy::kStreaming:
      return "streaming";
    case BasePolicy::kKNorm:
      return "knorm";
    case BasePolicy::kKeyDiff:
      break;
  }
  return "keydiff";
}

Status check_observed_queries(const CompressionParams& params) {
  const int count = params.observed_queries;
  if (params.policy != BasePolicy::kSnapKv || (count >= 1 && count <= params.window_tokens)) return {};
  const std::string most = to_text(params.window_tokens);
  return refuse("observed_queries", to_text(count), "[1, " + most + "] with window_tokens " + most);
}

Status check_lookahead(const CompressionParams& params) {
  const int count = params.lookahead_tokens;
  KVCRUSH_RETURN_IF_ERROR(check_range("lookahead_tokens", count, 0, kMaxLookaheadTokens));
  KVCRUSH_RETURN_IF_ERROR(
      check_range("lookahead_branches", params.lookahead_branches, 1, kMaxLookaheadBranches));
  if (count == 0 || params.policy == BasePolicy::kSnapKv) return {};
  return refuse("lookahead_tokens", to_text(count),
                std::string("0 with policy ") + name_of(params.policy) + ", which asks no several queries");
}

Status check_scores(const CompressionParams& params) {
  const int kernel = params.pool_kernel_tokens;
  if (kernel < 1 || kernel > kMaxPoolKernelTokens || kernel % 2 == 0) {
    return refuse("pool_kernel_tokens", to_text(kernel), "odd, [1, " + to_text(kMaxPoolKernelTokens) + "]");
  }
  const bool is_gaussian = params.pool_shape == PoolShape::kGaussian;
  if (reads_attention(params.policy)) {
    if (!is_gaussian || kernel > 1) return {};
    return refuse("pool_shape", "gaussian", "max with pool_kernel_tokens 1, which pools nothing");
  }
  const std::string reason =
      std::string(" with policy ") + name_of(params.policy) + ", which reads no attention";
  if (kernel != 1) return refuse("pool_kernel_tokens", to_text(kernel), "1" + reason);
  if (is_gaussian) return refuse("pool_shape", "gaussian", "max" + reason);
  if (params.value_norm) return refuse("value_norm", "true", "false" + reason);
  return {};
}

Status check_layer_weight(const CompressionParams& params) {
  const double weight = params.layer_weight;
  if (!(weight >= 0.0 && weight <= kMaxLayerWeight)) {
    return refuse("layer_weight", to_text(weight), "[0, " + to_text(kMaxLayerWeight) + "]");
  }
  if (weight == 0.0 || params.token_sets == TokenSets::kPerKvHead) return {};
  return refuse("layer_weight", to_text(weight), "0 with token_sets per_layer, where every head has a say");
}

Status check_budget(const CompressionParams& params) {
  if (params.target_compression && !params.budget_tokens && !params.budget_fraction)
    return check_range("target_compression", *params.target_compression, 2, kMaxTargetCompression);
  if (params.target_compression || params.budget_tokens.has_value() == params.budget_fraction.has_value()) {
    return invalid_argument(std::string("compression.budget: ") + (params.budget_tokens ? "both" : "none") +
                            " of budget_tokens and budget_fraction given, allowed: exactly one");
  }
  if (params.budget_fraction) {
    const double fraction = *params.budget_fraction;
    if (!(fraction > 0.0 && fraction <= 1.0)) return refuse("budget_fraction", to_text(fraction), "(0, 1]");
    return {};
  }
  const int least = min_budget_tokens(params);
  if (*params.budget_tokens >= least) return {};
  const bool is_block = params.granularity == Granularity::kBlock;
  const int num_fixed_tokens = params.num_sink_tokens + params.window_tokens;
  return refuse("budget_tokens", to_text(*params.budget_tokens),
                ">= " + to_text(least) + " = num_sink_tokens + window_tokens + " +
                    (is_block ? "one block and the cut blocks at both ends" : "1") + " = " +
                    to_text(params.num_sink_tokens) + " + " + to_text(params.window_tokens) + " + " +
                    to_text(least - num_fixed_tokens));
}

}  // namespace

bool reads_attention(BasePolicy policy) {
  return policy == BasePolicy::kSnapKv || policy == BasePolicy::kH2o || policy == BasePolicy::kTova;
}

Status validate(const CompressionParams& params) {
  KVCRUSH_RETURN_IF_ERROR(check_range("num_sink_tokens", params.num_sink_tokens, 0, kMaxSinkTokens));
  KVCRUSH_RETURN_IF_ERROR(check_range("window_tokens", params.window_tokens, 1, kMaxWindowTokens));
  KVCRUSH_RETURN_IF_ERROR(check_observed_queries(params));
  KVCRUSH_RETURN_IF_ERROR(check_lookahead(params));
  KVCRUSH_RETURN_IF_ERROR(check_scores(params));
  KVCRUSH_RETURN_IF_ERROR(check_layer_weight(params));
  if (params.granularity == Granularity::kBlock && params.signature_heads == SignatureHeads::kKv) {
    return refuse("signature_heads", "kv",
                  "query with granularity block, whose signatures have a bit per token");
  }
  if (!(params.representative_share >= 0.0 && params.representative_share <= 1.0)) {
    return refuse("representative_share", to_text(params.representative_share), "[0, 1]");
  }
  return check_budget(params);
}

int min_budget_tokens(const CompressionParams& params) {
  const int least_free_tokens = params.granularity == Granularity::kBlock ? kMinFreeBlockTokens : 1;
  return params.num_sink_tokens + params.window_tokens + least_free_tokens;
}

int resolve_budget_tokens(const CompressionParams& params, int num_prompt_tokens) {
  if (params.budget_tokens) return *params.budget_tokens;
  KVCRUSH_CHECK(params.budget_fraction.has_value() && num_prompt_tokens >= 0);
  const double share_tokens = std::ceil(*params.budget_fraction * num_prompt_tokens);
  return std::max(static_cast<int>(share_tokens), min_budget_tokens(params));
}

int layer_budget_tokens(const CompressionParams& params, int budget_tokens, int layer, int num_layers) {
  KVCRUSH_CHECK(layer >= 0 && layer < num_layers);
  if (params.layer_budgets == LayerBudgets::kUniform || num_layers == 1) return budget_tokens;
  const int num_fixed_tokens = params.num_sink_tokens + params.window_tokens;
  if (params.layer_budgets == LayerBudgets::kRising) layer = num_layers - 1 - layer;
  // free * (1.5 - layer / (num_layers - 1)) over the common denominator, so that the floor is exact.
  const std::int64_t num_free_tokens = budget_tokens - num_fixed_tokens;
  const std::int64_t num_steps = num_layers - 1;
  const std::int64_t layer_free_tokens = num_free_tokens * (3 * num_steps - 2 * layer) / (2 * num_steps);
  return std::max(num_fixed_tokens + static_cast<int>(layer_free_tokens), min_budget_tokens(params));
}

}  // namespace kvcrush
