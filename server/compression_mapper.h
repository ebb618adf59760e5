// How a request's KV cache is kept: what it asks for, over what the server does by default.
#pragma once

#include <optional>

#include "engine/core/status.h"
#include "engine/kvcrush/params.h"
#include "kvcrush/v1/inference.pb.h"

namespace kvcrush {

// The operator's choice, resolved once at the start.
struct CompressionDefaults {
  v1::KvCompression given;               // what the options name: holds for other policies as well
  CachePolicy policy;                    // of requests without a word about compression
  CompressionParams params;              // valid; where requests that prune take left-out fields from
  KvDtype engine_dtype = KvDtype::kF32;  // what an unset dtype means
};

// From the options, spelled as a request would spell them, except that BASE_POLICY_OFF may stand beside other
// fields: those are for requests that name a policy. Policy unspecified: on if target_compression is set.
// INVALID_ARGUMENT as for a request.
Result<CompressionDefaults> compression_defaults(const v1::KvCompression& given, KvDtype engine_dtype);

// One request's, checked. Left-out fields come from its preset where it names one, else from the server's
// default compression; a policy that is not the default's starts from the preset of its own and keeps of the
// operator's fields those that mean the same for every policy. The budget is never a preset's: it is the
// server's unless the request names one.
// INVALID_ARGUMENT naming field ("compression.window_tokens"), value and what is allowed.
Result<CachePolicy> map_compression(const v1::KvCompression& wire, const CompressionDefaults& defaults);

}  // namespace kvcrush
