// Lets a call in: who makes it, whether they may, and within which limits.
#pragma once

#include <grpcpp/server_context.h>

#include <atomic>
#include <cstdint>

#include "engine/core/status.h"
#include "kvcrush/v1/inference.pb.h"
#include "server/authenticator.h"
#include "server/caller.h"
#include "server/request_mapper.h"

namespace kvcrush {

enum class CallKind {
  kRead,      // GetModelInfo, GetStats, Abort: any token
  kTokenize,  // Tokenize, Detokenize: the scope "generate"; counts as a request
  kGenerate,  // Generate, GenerateOnce, Score: the same, and counts as running
};

class Callers {
 public:
  // Both outlive it.
  Callers(Authenticator& authenticator, SecurityMetrics& metrics)
      : authenticator_(authenticator), metrics_(metrics) {}

  // UNAUTHENTICATED, PERMISSION_DENIED, INVALID_ARGUMENT for a wrong x-tenant, or RESOURCE_EXHAUSTED with a
  // retry hint on the call.
  Result<Admission> enter(grpc::CallbackServerContext& context, CallKind kind);

 private:
  Result<Admission> enter_with_token(grpc::CallbackServerContext& context, CallKind kind);

  Authenticator& authenticator_;
  SecurityMetrics& metrics_;
  std::atomic<std::uint64_t> num_hints_{0};
};

// The max_tokens_per_request of `mapped`'s caller: cuts the default, and refuses a larger wish.
Status limit_tokens(const v1::GenerateRequest& request, MappedRequest& mapped);
inline Status limit_tokens(const v1::ScoreRequest& /*generates nothing*/, MappedRequest&) {
  return {};
}

}  // namespace kvcrush
