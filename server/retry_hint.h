// When a refused client may try again, for the client to read from the trailing metadata.
#pragma once

#include <grpcpp/server_context.h>

#include <chrono>
#include <string>

namespace kvcrush {

inline constexpr const char* kRetryAfterKey = "retry-after-ms";

// Call before the call is finished; a second hint would be sent beside the first.
inline void add_retry_hint(grpc::CallbackServerContext& context, std::chrono::milliseconds wait) {
  context.AddTrailingMetadata(kRetryAfterKey, std::to_string(wait.count()));
}

}  // namespace kvcrush
