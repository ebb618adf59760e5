// Answers Score: one result per variant, once all have come.
#pragma once

#include <memory>
#include <vector>

#include "server/unary_reactor.h"

namespace kvcrush {

class ScoreReactor final : public UnaryReactor {
 public:
  // `response` is gRPC's and lives until OnDone.
  static std::shared_ptr<ScoreReactor> create(SessionHost& host, grpc::CallbackServerContext* context,
                                              const EngineRequest& request, v1::ScoreResponse* response);

 private:
  ScoreReactor(SessionHost& host, grpc::CallbackServerContext* context, const EngineRequest& request,
               v1::ScoreResponse* response);

  // ABORTED when a sample ended without its scores: the message has no place to say so.
  grpc::Status answer() override;

  std::vector<TokenId> continuation_token_ids_;
  v1::ScoreResponse* response_;
};

}  // namespace kvcrush
