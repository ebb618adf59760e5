#include "server/compression_fields.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>
#include <utility>

namespace kvcrush {
namespace {

template <typename Wire, typename Ours, std::size_t N>
using Pairs = std::array<std::pair<Wire, Ours>, N>;

constexpr Pairs<v1::BasePolicy, BasePolicy, 6> kPolicies{{
    {v1::BASE_POLICY_SNAPKV, BasePolicy::kSnapKv},
    {v1::BASE_POLICY_H2O, BasePolicy::kH2o},
    {v1::BASE_POLICY_TOVA, BasePolicy::kTova},
    {v1::BASE_POLICY_STREAMING, BasePolicy::kStreaming},
    {v1::BASE_POLICY_KNORM, BasePolicy::kKNorm},
    {v1::BASE_POLICY_KEYDIFF, BasePolicy::kKeyDiff},
}};
constexpr Pairs<v1::Preset, Preset, 2> kPresets{{
    {v1::PRESET_DEFAULT, Preset::kDefault},
    {v1::PRESET_PAPER, Preset::kPaper},
}};
constexpr Pairs<v1::KvDtype, KvDtype, 5> kDtypes{{
    {v1::KV_DTYPE_F32, KvDtype::kF32},
    {v1::KV_DTYPE_BF16, KvDtype::kBF16},
    {v1::KV_DTYPE_F16, KvDtype::kF16},
    {v1::KV_DTYPE_INT8, KvDtype::kInt8},
    {v1::KV_DTYPE_INT4, KvDtype::kInt4},
}};
constexpr Pairs<v1::LayerBudgets, LayerBudgets, 3> kLayerBudgets{{
    {v1::LAYER_BUDGETS_UNIFORM, LayerBudgets::kUniform},
    {v1::LAYER_BUDGETS_PYRAMID, LayerBudgets::kPyramid},
    {v1::LAYER_BUDGETS_RISING, LayerBudgets::kRising},
}};
constexpr Pairs<v1::PoolShape, PoolShape, 2> kPoolShapes{{
    {v1::POOL_SHAPE_MAX, PoolShape::kMax},
    {v1::POOL_SHAPE_GAUSSIAN, PoolShape::kGaussian},
}};
constexpr Pairs<v1::SignatureHeads, SignatureHeads, 2> kSignatureHeads{{
    {v1::SIGNATURE_HEADS_QUERY, SignatureHeads::kQuery},
    {v1::SIGNATURE_HEADS_KV, SignatureHeads::kKv},
}};
constexpr Pairs<v1::Anchor, AnchorKind, 5> kAnchors{{
    {v1::ANCHOR_RANDOM, AnchorKind::kRandom},
    {v1::ANCHOR_ZEROS, AnchorKind::kZeros},
    {v1::ANCHOR_ONES, AnchorKind::kOnes},
    {v1::ANCHOR_MEAN, AnchorKind::kMean},
    {v1::ANCHOR_ALTERNATING, AnchorKind::kAlternating},
}};
constexpr Pairs<v1::Granularity, Granularity, 2> kGranularities{{
    {v1::GRANULARITY_TOKEN, Granularity::kToken},
    {v1::GRANULARITY_BLOCK, Granularity::kBlock},
}};
constexpr Pairs<v1::TokenSets, TokenSets, 2> kTokenSets{{
    {v1::TOKEN_SETS_PER_LAYER, TokenSets::kPerLayer},
    {v1::TOKEN_SETS_PER_KV_HEAD, TokenSets::kPerKvHead},
}};
constexpr Pairs<v1::RepresentativePick, RepresentativePick, 2> kPicks{{
    {v1::REPRESENTATIVE_PICK_FIRST, RepresentativePick::kFirst},
    {v1::REPRESENTATIVE_PICK_BEST, RepresentativePick::kBest},
}};
constexpr Pairs<v1::PruneWhen, PruneWhen, 2> kPruneWhens{{
    {v1::PRUNE_WHEN_AFTER_PROMPT, PruneWhen::kAfterPrompt},
    {v1::PRUNE_WHEN_DURING_PREFILL, PruneWhen::kDuringPrefill},
}};

// Number 0, UNSPECIFIED, leaves `ours` as it is.
template <typename Wire, typename Ours, typename Target, std::size_t N>
Status map_enum(std::string_view field, Wire wire, const Pairs<Wire, Ours, N>& table, Target& ours) {
  if (static_cast<int>(wire) == 0) return {};
  for (const auto& [theirs, mine] : table) {
    if (theirs == wire) {
      ours = mine;
      return {};
    }
  }
  return invalid_argument(fmt::format("compression.{} is {}, allowed: [0, {}]", field, static_cast<int>(wire),
                                      static_cast<int>(table.back().first)));
}

template <typename Wire, typename Ours, std::size_t N>
Wire wire_enum(Ours ours, const Pairs<Wire, Ours, N>& table) {
  for (const auto& [theirs, mine] : table) {
    if (mine == ours) return theirs;
  }
  return static_cast<Wire>(0);
}

void overlay_numbers(const v1::KvCompression& wire, CompressionParams& params) {
  if (wire.budget_case() == v1::KvCompression::kBudgetTokens) {
    params.budget_tokens = wire.budget_tokens();
    params.budget_fraction.reset();
    params.target_compression.reset();
  } else if (wire.budget_case() == v1::KvCompression::kBudgetFraction) {
    params.budget_fraction = wire.budget_fraction();
    params.budget_tokens.reset();
    params.target_compression.reset();
  }
  if (wire.has_representative_share()) params.representative_share = wire.representative_share();
  if (wire.has_num_sink_tokens()) params.num_sink_tokens = wire.num_sink_tokens();
  if (wire.has_window_tokens()) params.window_tokens = wire.window_tokens();
  if (wire.has_pool_kernel_tokens()) params.pool_kernel_tokens = wire.pool_kernel_tokens();
  if (wire.has_seed()) params.seed = wire.seed();
  if (wire.has_value_norm()) params.value_norm = wire.value_norm();
  if (wire.has_observed_queries()) params.observed_queries = wire.observed_queries();
  if (wire.has_lookahead_tokens()) params.lookahead_tokens = wire.lookahead_tokens();
  if (wire.has_lookahead_branches()) params.lookahead_branches = wire.lookahead_branches();
  if (wire.has_layer_weight()) params.layer_weight = wire.layer_weight();
}

std::string lower_without(std::string name, std::string_view prefix) {
  if (std::string_view(name).starts_with(prefix)) name.erase(0, prefix.size());
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

}  // namespace

Status map_policy(v1::BasePolicy wire, BasePolicy& ours) {
  return map_enum("policy", wire, kPolicies, ours);
}

Status map_preset(v1::Preset wire, std::optional<Preset>& ours) {
  return map_enum("preset", wire, kPresets, ours);
}

Status map_kv_dtype(v1::KvDtype wire, std::optional<KvDtype>& ours) {
  return map_enum("kv_dtype", wire, kDtypes, ours);
}

Status overlay_fields(const v1::KvCompression& wire, CompressionParams& params) {
  overlay_numbers(wire, params);
  KVCRUSH_RETURN_IF_ERROR(map_enum("anchor", wire.anchor(), kAnchors, params.anchor));
  KVCRUSH_RETURN_IF_ERROR(map_enum("granularity", wire.granularity(), kGranularities, params.granularity));
  KVCRUSH_RETURN_IF_ERROR(map_enum("token_sets", wire.token_sets(), kTokenSets, params.token_sets));
  KVCRUSH_RETURN_IF_ERROR(map_enum("pick", wire.pick(), kPicks, params.pick));
  KVCRUSH_RETURN_IF_ERROR(map_enum("when", wire.when(), kPruneWhens, params.when));
  KVCRUSH_RETURN_IF_ERROR(
      map_enum("layer_budgets", wire.layer_budgets(), kLayerBudgets, params.layer_budgets));
  KVCRUSH_RETURN_IF_ERROR(map_enum("pool_shape", wire.pool_shape(), kPoolShapes, params.pool_shape));
  return map_enum("signature_heads", wire.signature_heads(), kSignatureHeads, params.signature_heads);
}

void fit_unnamed_fields(const v1::KvCompression& wire, CompressionParams& params) {
  if (!wire.has_observed_queries()) {
    params.observed_queries = std::min(params.observed_queries, params.window_tokens);
  }
  if (wire.pool_shape() == v1::POOL_SHAPE_UNSPECIFIED && params.pool_kernel_tokens == 1) {
    params.pool_shape = PoolShape::kMax;
  }
  if (!wire.has_layer_weight() && params.token_sets == TokenSets::kPerLayer) params.layer_weight = 0.0;
}

v1::KvCompression to_proto(const CachePolicy& policy, KvDtype engine_dtype) {
  v1::KvCompression wire;
  wire.set_kv_dtype(wire_enum(policy.kv_dtype.value_or(engine_dtype), kDtypes));
  if (!policy.compression) {
    wire.set_policy(v1::BASE_POLICY_OFF);
    return wire;
  }
  const CompressionParams& params = *policy.compression;
  wire.set_policy(wire_enum(params.policy, kPolicies));
  if (params.budget_tokens) wire.set_budget_tokens(*params.budget_tokens);
  if (params.budget_fraction) wire.set_budget_fraction(*params.budget_fraction);
  wire.set_representative_share(params.representative_share);
  wire.set_anchor(wire_enum(params.anchor, kAnchors));
  wire.set_granularity(wire_enum(params.granularity, kGranularities));
  wire.set_token_sets(wire_enum(params.token_sets, kTokenSets));
  wire.set_pick(wire_enum(params.pick, kPicks));
  wire.set_num_sink_tokens(params.num_sink_tokens);
  wire.set_window_tokens(params.window_tokens);
  wire.set_pool_kernel_tokens(params.pool_kernel_tokens);
  wire.set_seed(params.seed);
  wire.set_when(wire_enum(params.when, kPruneWhens));
  wire.set_layer_budgets(wire_enum(params.layer_budgets, kLayerBudgets));
  if (params.policy == BasePolicy::kSnapKv) {
    wire.set_observed_queries(params.observed_queries);
    wire.set_lookahead_tokens(params.lookahead_tokens);
    wire.set_lookahead_branches(params.lookahead_branches);
  }
  wire.set_pool_shape(wire_enum(params.pool_shape, kPoolShapes));
  wire.set_value_norm(params.value_norm);
  wire.set_layer_weight(params.layer_weight);
  wire.set_signature_heads(wire_enum(params.signature_heads, kSignatureHeads));
  return wire;
}

std::string short_name(v1::BasePolicy policy) {
  return lower_without(v1::BasePolicy_Name(policy), "BASE_POLICY_");
}

std::string short_name(v1::KvDtype dtype) {
  return lower_without(v1::KvDtype_Name(dtype), "KV_DTYPE_");
}

}  // namespace kvcrush
