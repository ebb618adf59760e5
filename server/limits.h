// What one client may take of the server, and how long things may last. Each is an option; what happens when
// one is reached: docs/operations/limits.md.
#pragma once

#include <chrono>
#include <cstddef>

namespace grpc {
class ServerBuilder;
}

namespace kvcrush {

struct ServerLimits {
  int max_streams_per_connection = 1024;
  std::chrono::milliseconds keepalive_time{60'000};  // 0: no keepalive
  std::chrono::milliseconds keepalive_timeout{20'000};
  std::chrono::milliseconds min_ping_interval{10'000};
  std::chrono::milliseconds max_connection_age{1'800'000};      // 0: without end
  std::chrono::milliseconds max_connection_age_grace{600'000};  // 0: as long as streams take
  int max_metadata_bytes = 16 * 1024;                           // of one request
  std::size_t max_unread_bytes = 1024 * 1024;                   // of one stream; 0: without bound
  std::chrono::milliseconds step_stall_timeout{30'000};         // 0: never
};

// Those that are gRPC's to keep.
void apply_limits(const ServerLimits& limits, grpc::ServerBuilder& builder);
// The largest request; compressed ones are answered with UNIMPLEMENTED, whatever their size.
void bound_messages(int max_message_bytes, grpc::ServerBuilder& builder);

}  // namespace kvcrush
