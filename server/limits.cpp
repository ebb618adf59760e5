#include "server/limits.h"

#include <grpcpp/server_builder.h>

#include <algorithm>
#include <limits>

namespace kvcrush {
namespace {

// gRPC spells "never" as the largest int.
int or_never(std::chrono::milliseconds duration) {
  constexpr auto kNever = std::numeric_limits<int>::max();
  return duration.count() == 0 ? kNever : static_cast<int>(std::min<std::int64_t>(duration.count(), kNever));
}

}  // namespace

void apply_limits(const ServerLimits& limits, grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, limits.max_streams_per_connection);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, or_never(limits.keepalive_time));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                             static_cast<int>(limits.keepalive_timeout.count()));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             static_cast<int>(limits.min_ping_interval.count()));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, or_never(limits.max_connection_age));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, or_never(limits.max_connection_age_grace));
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, limits.max_metadata_bytes);
}

void bound_messages(int max_message_bytes, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(max_message_bytes);
  // gRPC 1.51 inflates a message whole and compares its size then: 200 kB would become 200 MB. The first
  // two refuse such calls by their headers, with a clear status; the last takes away what would inflate.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
}

}  // namespace kvcrush
