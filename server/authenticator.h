// Tells from the metadata of a call whose token it carries, before the call's message is read.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "server/auth_tokens.h"
#include "server/reloading.h"
#include "server/security_metrics.h"
#include "server/security_options.h"
#include "server/token_limits.h"

namespace kvcrush {

// The metadata that carries it: "authorization: Bearer TOKEN".
inline constexpr const char* kAuthorizationKey = "authorization";
// All that a refused caller learns.
inline constexpr const char* kUnauthenticated =
    "the call carries no valid bearer token, wanted: the metadata authorization: Bearer TOKEN";

class Authenticator {
 public:
  // `metrics` outlives it.
  Authenticator(const SecurityOptions& options, SecurityMetrics& metrics);

  bool enabled() const { return enabled_; }
  Status load();  // INVALID_ARGUMENT naming option and file; nothing to do when not enabled
  void poll();    // reads the file again; from one thread

  // The entry in `set` of the token that these values of "authorization" carry; null: refused, and counted.
  // Any thread.
  const AuthToken* check(const TokenSet& set, const std::vector<std::string_view>& authorization,
                         std::chrono::system_clock::time_point now);
  // False for what must answer without a token: health checks.
  static bool guards(std::string_view method);

  // Null when not enabled.
  std::shared_ptr<const TokenSet> tokens() const { return tokens_.current(); }
  TokenUsage& usage() { return usage_; }

 private:
  void refused(AuthFailure reason);
  void reloaded(const Status& status, const TokenSet& in_force);

  const bool enabled_;
  SecurityMetrics& metrics_;
  TokenUsage usage_;
  Reloading<TokenSet> tokens_;
  std::mutex log_mutex_;
  SteadyTime logged_at_;  // guarded by log_mutex_
  int num_unlogged_ = 0;  // guarded by log_mutex_; refusals since
};

}  // namespace kvcrush
