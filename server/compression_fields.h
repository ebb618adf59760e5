// One by one, the fields of KvCompression and ours: enums, copies, and how a policy is shown.
#pragma once

#include <string>

#include "engine/core/status.h"
#include "engine/kvcrush/params.h"
#include "kvcrush/v1/inference.pb.h"

namespace kvcrush {

// Copies what `wire` names over `params`, leaving the rest; policy, preset, kv_dtype and target_compression
// are the caller's. INVALID_ARGUMENT for an enumerator that is not known; ranges are validate()'s.
Status overlay_fields(const v1::KvCompression& wire, CompressionParams& params);

// The same for single enums: UNSPECIFIED leaves `ours` as it is.
Status map_policy(v1::BasePolicy wire, BasePolicy& ours);  // OFF is the caller's
Status map_preset(v1::Preset wire, std::optional<Preset>& ours);
Status map_kv_dtype(v1::KvDtype wire, std::optional<KvDtype>& ours);

// A field that `wire` leaves out never makes what it names invalid: observed queries are cut to the window,
// nothing is pooled by a gaussian of width 1, and tokens chosen per layer have no layer weight.
void fit_unnamed_fields(const v1::KvCompression& wire, CompressionParams& params);

// Every field of how a cache is kept that the policy reads; `engine_dtype` is what an unset dtype means.
v1::KvCompression to_proto(const CachePolicy& policy, KvDtype engine_dtype);

// "BASE_POLICY_SNAPKV" as "snapkv", "KV_DTYPE_INT4" as "int4": for logs and labels.
std::string short_name(v1::BasePolicy policy);
std::string short_name(v1::KvDtype dtype);

}  // namespace kvcrush
