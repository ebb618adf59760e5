#include "server/security_metrics.h"

namespace kvcrush {
namespace {

using Counters = prometheus::Family<prometheus::Counter>;

Counters& counters(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

prometheus::Counter& reloads(Counters& family, bool ok) {
  return family.Add({{"result", ok ? "ok" : "failed"}});
}

const char* to_string(TokenLimit limit) {
  return limit == TokenLimit::kConcurrentRequests ? "concurrent_requests" : "requests_per_minute";
}

}  // namespace

const char* to_string(AuthFailure reason) {
  switch (reason) {
    case AuthFailure::kMissing:
      return "missing";
    case AuthFailure::kUnknown:
      return "unknown";
    case AuthFailure::kExpired:
      return "expired";
  }
  return "unknown";
}

SecurityMetrics::SecurityMetrics(prometheus::Registry& registry)
    : certificate_expiry_(prometheus::BuildGauge()
                              .Name("kvcrush_tls_certificate_expiry_timestamp_seconds")
                              .Help("When the certificate in force expires, Unix time")
                              .Register(registry)),
      tls_reloads_(counters(registry, "kvcrush_tls_reloads_total",
                            "Times that changed TLS files were taken up or refused")),
      token_reloads_(counters(registry, "kvcrush_auth_token_reloads_total",
                              "Times that a changed token file was taken up or refused")),
      auth_failures_(counters(registry, "kvcrush_auth_failures_total",
                              "Calls refused for their bearer token, by what was wrong with it")),
      limited_(counters(registry, "kvcrush_token_limited_requests_total",
                        "Calls refused by a limit of their token")) {}

void SecurityMetrics::show_tls() {
  for (const bool ok : {true, false}) reloads(tls_reloads_, ok);
}

void SecurityMetrics::show_tokens() {
  for (const bool ok : {true, false}) reloads(token_reloads_, ok);
  for (const AuthFailure reason : {AuthFailure::kMissing, AuthFailure::kUnknown, AuthFailure::kExpired})
    auth_failures_.Add({{"reason", to_string(reason)}});
  for (const TokenLimit limit : {TokenLimit::kConcurrentRequests, TokenLimit::kRequestsPerMinute})
    limited_.Add({{"limit", to_string(limit)}});
}

void SecurityMetrics::certificate(std::chrono::system_clock::time_point expires_at) {
  certificate_expiry_.Add({}).Set(std::chrono::duration<double>(expires_at.time_since_epoch()).count());
}

void SecurityMetrics::tls_reloaded(bool ok) {
  reloads(tls_reloads_, ok).Increment();
}

void SecurityMetrics::tokens_reloaded(bool ok) {
  reloads(token_reloads_, ok).Increment();
}

void SecurityMetrics::auth_failed(AuthFailure reason) {
  auth_failures_.Add({{"reason", to_string(reason)}}).Increment();
}

void SecurityMetrics::limited(TokenLimit limit) {
  limited_.Add({{"limit", to_string(limit)}}).Increment();
}

}  // namespace kvcrush
