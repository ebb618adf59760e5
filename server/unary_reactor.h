// Answers a call once, when every sample has ended.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <memory>

#include "server/generate_session.h"

namespace kvcrush {

class UnaryReactor : public GenerateSession, public grpc::ServerUnaryReactor {
 public:
  // Takes effect after a successful start(): gRPC now holds the reactor until OnDone.
  void hold_until_done() { self_ = std::static_pointer_cast<UnaryReactor>(shared_from_this()); }

 protected:
  using GenerateSession::GenerateSession;
  // Called once with mutex_ held, when all samples have ended well or by Abort. Fills the response.
  virtual grpc::Status answer() = 0;

 private:
  void deliver() override;
  void OnCancel() override { client_gone("cancelled"); }
  void OnDone() override;

  std::shared_ptr<UnaryReactor> self_;
};

}  // namespace kvcrush
