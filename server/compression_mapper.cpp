#include "server/compression_mapper.h"

#include <google/protobuf/text_format.h>
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/compression_fields.h"

namespace kvcrush {
namespace {

using google::protobuf::FieldDescriptor;

std::vector<const FieldDescriptor*> set_fields(const v1::KvCompression& wire) {
  std::vector<const FieldDescriptor*> fields;
  v1::KvCompression::GetReflection()->ListFields(wire, &fields);
  return fields;
}

bool names_nothing_beside(const v1::KvCompression& wire, std::initializer_list<int> numbers) {
  const auto fields = set_fields(wire);
  return std::all_of(fields.begin(), fields.end(), [&](const FieldDescriptor* field) {
    return std::find(numbers.begin(), numbers.end(), field->number()) != numbers.end();
  });
}

// Refuses the first field that stands beside `reason` and is none of `numbers`: it would be ignored.
Status allow_only(const v1::KvCompression& wire, std::initializer_list<int> numbers,
                  const std::string& reason, std::string_view allowed) {
  for (const FieldDescriptor* field : set_fields(wire)) {
    if (std::find(numbers.begin(), numbers.end(), field->number()) != numbers.end()) continue;
    std::string value;
    google::protobuf::TextFormat::PrintFieldValueToString(wire, field, -1, &value);
    return invalid_argument(
        fmt::format("compression.{} is {}, allowed beside {}: {}", field->name(), value, reason, allowed));
  }
  return {};
}

Result<CachePolicy> map_target(const v1::KvCompression& wire) {
  using Wire = v1::KvCompression;
  Result<CachePolicy> policy = policy_for_target(wire.target_compression());
  KVCRUSH_RETURN_IF_ERROR(policy.status());
  const std::string reason = fmt::format("target_compression {}", wire.target_compression());
  if (!policy->compression) {
    KVCRUSH_RETURN_IF_ERROR(allow_only(wire, {Wire::kTargetCompressionFieldNumber},
                                       reason + ", which drops no token", "nothing"));
    return policy;
  }
  KVCRUSH_RETURN_IF_ERROR(
      allow_only(wire, {Wire::kTargetCompressionFieldNumber, Wire::kSeedFieldNumber, Wire::kWhenFieldNumber},
                 reason, "seed, when"));
  KVCRUSH_RETURN_IF_ERROR(overlay_fields(wire, *policy->compression));
  return policy;
}

Result<CachePolicy> map_off(const v1::KvCompression& wire) {
  using Wire = v1::KvCompression;
  KVCRUSH_RETURN_IF_ERROR(allow_only(wire, {Wire::kPolicyFieldNumber, Wire::kKvDtypeFieldNumber},
                                     "policy BASE_POLICY_OFF", "kv_dtype"));
  CachePolicy policy;
  KVCRUSH_RETURN_IF_ERROR(map_kv_dtype(wire.kv_dtype(), policy.kv_dtype));
  return policy;
}

// The operator's fields without those whose meaning hangs on the policy they were chosen for.
v1::KvCompression for_any_policy(v1::KvCompression given) {
  given.clear_observed_queries();
  given.clear_lookahead_tokens();
  given.clear_lookahead_branches();
  given.clear_pool_kernel_tokens();
  given.clear_pool_shape();
  given.clear_value_norm();
  return given;
}

// Puts what `wire` names over `params`, which come from presets or the operator; the result is valid.
Status apply_fields(const v1::KvCompression& wire, CompressionParams& params) {
  KVCRUSH_RETURN_IF_ERROR(overlay_fields(wire, params));
  if (wire.has_observed_queries() && params.policy != BasePolicy::kSnapKv) {
    return invalid_argument(fmt::format(
        "compression.observed_queries is {}, allowed: unset with another policy than snapkv, which "
        "does not read it",
        wire.observed_queries()));
  }
  fit_unnamed_fields(wire, params);
  return validate(params);
}

// What a request that prunes with `policy` starts from.
Result<CompressionParams> base_params(BasePolicy policy, std::optional<Preset> preset,
                                      const CompressionDefaults& defaults) {
  if (!preset && policy == defaults.params.policy) return defaults.params;
  std::optional<Preset> servers;
  KVCRUSH_RETURN_IF_ERROR(map_preset(defaults.given.preset(), servers));
  CompressionParams params = preset_params(preset ? *preset : servers.value_or(Preset::kDefault), policy);
  params.budget_tokens = defaults.params.budget_tokens;
  params.budget_fraction = defaults.params.budget_fraction;
  params.target_compression = defaults.params.target_compression;
  if (!preset) KVCRUSH_RETURN_IF_ERROR(overlay_fields(for_any_policy(defaults.given), params));
  return params;
}

// Policy not OFF. Whether the request prunes at all, where it names no policy and the server's default is
// off.
Result<bool> asks_to_prune(const v1::KvCompression& wire) {
  if (names_nothing_beside(wire, {v1::KvCompression::kKvDtypeFieldNumber})) return false;
  if (wire.preset() == v1::PRESET_UNSPECIFIED) {
    return invalid_argument(
        "compression.policy is BASE_POLICY_UNSPECIFIED and this server's default is off, allowed beside "
        "other "
        "compression fields: a policy that prunes, or a preset with a budget");
  }
  if (wire.budget_case() == v1::KvCompression::BUDGET_NOT_SET) {
    return invalid_argument(fmt::format(
        "compression.budget is missing and this server's default is off, allowed beside preset {}: "
        "budget_tokens or budget_fraction",
        v1::Preset_Name(wire.preset())));
  }
  return true;
}

}  // namespace

Result<CompressionDefaults> compression_defaults(const v1::KvCompression& given, KvDtype engine_dtype) {
  CompressionDefaults defaults;
  defaults.given = given;
  defaults.engine_dtype = engine_dtype;
  defaults.params = preset_params(Preset::kDefault, BasePolicy::kSnapKv);
  defaults.params.budget_fraction = 0.25;
  if (given.has_target_compression()) {
    Result<CachePolicy> policy = map_target(given);
    KVCRUSH_RETURN_IF_ERROR(policy.status());
    defaults.policy = *policy;
    if (policy->compression) defaults.params = *policy->compression;
    return defaults;
  }
  BasePolicy policy = BasePolicy::kSnapKv;
  const bool off = given.policy() == v1::BASE_POLICY_OFF || given.policy() == v1::BASE_POLICY_UNSPECIFIED;
  if (!off) KVCRUSH_RETURN_IF_ERROR(map_policy(given.policy(), policy));
  std::optional<Preset> preset;
  KVCRUSH_RETURN_IF_ERROR(map_preset(given.preset(), preset));
  CompressionParams params = preset_params(preset.value_or(Preset::kDefault), policy);
  params.budget_fraction = 0.25;
  KVCRUSH_RETURN_IF_ERROR(apply_fields(given, params));
  defaults.params = params;
  if (!off) defaults.policy.compression = params;
  KVCRUSH_RETURN_IF_ERROR(map_kv_dtype(given.kv_dtype(), defaults.policy.kv_dtype));
  return defaults;
}

Result<CachePolicy> map_compression(const v1::KvCompression& wire, const CompressionDefaults& defaults) {
  if (wire.has_target_compression()) return map_target(wire);
  if (wire.policy() == v1::BASE_POLICY_OFF) return map_off(wire);
  CachePolicy policy;
  policy.kv_dtype = defaults.policy.kv_dtype;
  KVCRUSH_RETURN_IF_ERROR(map_kv_dtype(wire.kv_dtype(), policy.kv_dtype));
  if (wire.policy() == v1::BASE_POLICY_UNSPECIFIED && !defaults.policy.compression) {
    const Result<bool> prunes = asks_to_prune(wire);
    KVCRUSH_RETURN_IF_ERROR(prunes.status());
    if (!*prunes) return policy;
  }
  BasePolicy base = defaults.params.policy;
  KVCRUSH_RETURN_IF_ERROR(map_policy(wire.policy(), base));
  std::optional<Preset> preset;
  KVCRUSH_RETURN_IF_ERROR(map_preset(wire.preset(), preset));
  Result<CompressionParams> params = base_params(base, preset, defaults);
  KVCRUSH_RETURN_IF_ERROR(params.status());
  KVCRUSH_RETURN_IF_ERROR(apply_fields(wire, *params));
  policy.compression = std::move(params).value();
  return policy;
}

}  // namespace kvcrush
