// Answers GenerateOnce: gathers every sample to its end, then answers once.
#pragma once

#include <memory>
#include <string>

#include "server/unary_reactor.h"

namespace kvcrush {

class OnceReactor final : public UnaryReactor {
 public:
  // `response` is gRPC's and lives until OnDone.
  static std::shared_ptr<OnceReactor> create(SessionHost& host, grpc::CallbackServerContext* context,
                                             std::string request_id, v1::GenerateOnceResponse* response);

 private:
  OnceReactor(SessionHost& host, grpc::CallbackServerContext* context, std::string request_id,
              v1::GenerateOnceResponse* response);

  grpc::Status answer() override;

  v1::GenerateOnceResponse* response_;
};

}  // namespace kvcrush
