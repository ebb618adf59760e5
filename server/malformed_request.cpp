#include "server/malformed_request.h"

#include <google/protobuf/descriptor.h>

#include <string>
#include <string_view>

namespace kvcrush {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;

class MalformedRequest final : public grpc::experimental::Interceptor {
 public:
  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      const grpc::Status status = methods->GetSendStatus();
      if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED && status.error_message().empty()) {
        methods->ModifySendStatus(
            {grpc::StatusCode::INVALID_ARGUMENT,
             "request cannot be parsed, allowed: a protobuf message whose string fields are valid "
             "UTF-8"});
      }
    }
    methods->Proceed();
  }
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  // Only for the methods of our own service: gRPC's own services and unknown methods answer for themselves.
  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    constexpr std::string_view kPrefix = "/kvcrush.v1.Inference/";
    const std::string_view method = info->method() == nullptr ? "" : info->method();
    if (!method.starts_with(kPrefix)) return nullptr;
    const bool known = service_.FindMethodByName(std::string(method.substr(kPrefix.size()))) != nullptr;
    return known ? new MalformedRequest : nullptr;
  }

 private:
  const google::protobuf::ServiceDescriptor& service_ =
      *google::protobuf::DescriptorPool::generated_pool()->FindServiceByName("kvcrush.v1.Inference");
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> malformed_request_interceptor() {
  return std::make_unique<Factory>();
}

}  // namespace kvcrush
