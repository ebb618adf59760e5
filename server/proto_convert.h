// Between the wire's enums and messages and ours.
#pragma once

#include <grpcpp/support/status.h>

#include "engine/core/status.h"
#include "engine/core/token_stream.h"
#include "kvcrush/v1/inference.pb.h"

namespace kvcrush {

// One to one by name; overlong messages are cut, since they travel in HTTP/2 headers.
grpc::Status to_grpc_status(const Status& status);

v1::FinishReason to_proto(FinishReason reason);
// `applied`: how the sample's cache was kept, every field.
void fill_finish_info(const FinishEvent& event, const v1::KvCompression& applied, v1::FinishInfo& info);
// Bytes of a full 16-bit cache over the pool bytes held at the end; 0 when nothing was held.
double compression_ratio(const CompressionOutcome& outcome);

}  // namespace kvcrush
