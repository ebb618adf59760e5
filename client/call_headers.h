// What the client tells about itself beside every request, as gRPC metadata.
#pragma once

#include <string>

#include "client/status.h"

namespace grpc {
class ClientContext;
}

namespace kvcrush::client {

// Empty: not sent.
struct CallHeaders {
  std::string token = {};        // `authorization: Bearer TOKEN`
  std::string tenant = {};       // `x-tenant`
  std::string traceparent = {};  // W3C trace context: 00-TRACE_ID-PARENT_ID-FLAGS in lower-case hex
};

// INVALID_ARGUMENT names the header that no call may carry; gRPC would end the process over it. A token's
// text is not in the message.
Status check_headers(const CallHeaders& headers);
void add_headers(const CallHeaders& headers, grpc::ClientContext& context);

}  // namespace kvcrush::client
