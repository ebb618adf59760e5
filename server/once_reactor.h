// Answers GenerateOnce: gathers every sample to its end, then answers once.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <memory>
#include <string>

#include "server/generate_session.h"

namespace kvcrush {

class OnceReactor final : public GenerateSession, public grpc::ServerUnaryReactor {
 public:
  // `response` is gRPC's and lives until OnDone.
  static std::shared_ptr<OnceReactor> create(SessionHost& host, grpc::CallbackServerContext* context,
                                             std::string request_id, v1::GenerateOnceResponse* response);

  // Takes effect after a successful start(): gRPC now holds the reactor until OnDone.
  void hold_until_done() { self_ = std::static_pointer_cast<OnceReactor>(shared_from_this()); }

 private:
  OnceReactor(SessionHost& host, grpc::CallbackServerContext* context, std::string request_id,
              v1::GenerateOnceResponse* response);

  void deliver() override;
  void fill_response();  // mutex_ held
  void OnCancel() override { client_gone("cancelled"); }
  void OnDone() override;

  v1::GenerateOnceResponse* response_;
  std::shared_ptr<OnceReactor> self_;
};

}  // namespace kvcrush
