// Between the wire's enums and messages and ours.
#pragma once

#include <grpcpp/support/status.h>

#include <optional>

#include "engine/core/status.h"
#include "engine/core/token_stream.h"
#include "engine/kvcrush/params.h"
#include "kvcrush/v1/inference.pb.h"

namespace kvcrush {

// One to one by name; overlong messages are cut, since they travel in HTTP/2 headers.
grpc::Status to_grpc_status(const Status& status);

v1::FinishReason to_proto(FinishReason reason);
v1::KvCompression to_proto(const CompressionParams& params);
void fill_finish_info(const FinishEvent& event, v1::FinishInfo& info);

// A request's compression over the server's defaults, checked; unset: full cache.
// INVALID_ARGUMENT naming field, value and what is allowed.
Result<std::optional<CompressionParams>> map_compression(const v1::KvCompression* wire,
                                                         bool compress_by_default,
                                                         const CompressionParams& defaults);

}  // namespace kvcrush
