// How the port is guarded, for Prometheus. Metrics of what is off are absent.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <chrono>

namespace kvcrush {

enum class AuthFailure { kMissing, kUnknown, kExpired };
enum class TokenLimit { kConcurrentRequests, kRequestsPerMinute };

// Thread-safe.
class SecurityMetrics {
 public:
  explicit SecurityMetrics(prometheus::Registry& registry);

  // Makes the counters of a feature that is on, so that rate() sees the first event.
  void show_tls();
  void show_tokens();

  void certificate(std::chrono::system_clock::time_point expires_at);
  void tls_reloaded(bool ok);
  void tokens_reloaded(bool ok);
  void auth_failed(AuthFailure reason);
  void limited(TokenLimit limit);

 private:
  prometheus::Family<prometheus::Gauge>& certificate_expiry_;
  prometheus::Family<prometheus::Counter>& tls_reloads_;
  prometheus::Family<prometheus::Counter>& token_reloads_;
  prometheus::Family<prometheus::Counter>& auth_failures_;
  prometheus::Family<prometheus::Counter>& limited_;
};

const char* to_string(AuthFailure reason);

}  // namespace kvcrush
