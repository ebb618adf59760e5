// gRPC's callback API answers a request that cannot be parsed with UNIMPLEMENTED and no message. This turns
// the answer into INVALID_ARGUMENT that says what is wrong.
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <memory>

namespace kvcrush {

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> malformed_request_interceptor();

}  // namespace kvcrush
