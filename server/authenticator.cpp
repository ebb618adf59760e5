#include "server/authenticator.h"

#include <absl/strings/match.h>

#include <utility>

#include "server/logging.h"

namespace kvcrush {
namespace {

using std::chrono::system_clock;

constexpr std::string_view kScheme = "Bearer ";
constexpr std::string_view kHealthService = "/grpc.health.v1.Health/";

Result<TokenSet> parse_file(const NamedFile& file, const std::string& contents) {
  Result<TokenSet> set = TokenSet::parse(contents);
  if (!set.ok()) return refused_file(file, set.status().message());
  return set;
}

}  // namespace

Authenticator::Authenticator(const SecurityOptions& options, SecurityMetrics& metrics)
    : enabled_(options.tokens()),
      metrics_(metrics),
      tokens_(
          {{"--auth-tokens", options.auth_tokens}},
          [file = NamedFile{"--auth-tokens", options.auth_tokens}](const std::vector<std::string>& contents) {
            return parse_file(file, contents.at(0));
          },
          [this](const Status& status, const TokenSet& in_force) { reloaded(status, in_force); }) {}

Status Authenticator::load() {
  if (!enabled_) return {};
  KVCRUSH_RETURN_IF_ERROR(tokens_.load());
  metrics_.show_tokens();
  LogLine(spdlog::level::info, "tokens_loaded").with("tokens", tokens()->size());
  return {};
}

void Authenticator::poll() {
  if (enabled_) tokens_.poll();
}

void Authenticator::reloaded(const Status& status, const TokenSet& in_force) {
  metrics_.tokens_reloaded(status.ok());
  if (status.ok()) {
    usage_.keep_only(in_force);
    LogLine(spdlog::level::info, "tokens_reloaded").with("tokens", in_force.size());
  } else {
    LogLine(spdlog::level::err, "tokens_reload_failed")
        .with("reason", status.message())
        .with("tokens_in_force", in_force.size());
  }
}

bool Authenticator::guards(std::string_view method) {
  return !method.starts_with(kHealthService);
}

const AuthToken* Authenticator::check(const TokenSet& set, const std::vector<std::string_view>& authorization,
                                      system_clock::time_point now) {
  const std::string_view value = authorization.empty() ? "" : authorization.front();
  if (!absl::StartsWithIgnoreCase({value.data(), value.size()}, {kScheme.data(), kScheme.size()})) {
    refused(AuthFailure::kMissing);
    return nullptr;
  }
  const AuthToken* token = set.find(value.substr(kScheme.size()));
  if (token == nullptr || authorization.size() > 1) {
    refused(AuthFailure::kUnknown);
    return nullptr;
  }
  if (token->expired(now)) {
    refused(AuthFailure::kExpired);
    return nullptr;
  }
  return token;
}

void Authenticator::refused(AuthFailure reason) {
  metrics_.auth_failed(reason);
  constexpr std::chrono::seconds kBetweenLines{1};  // whoever calls without a token must not fill the log
  int num_calls = 0;
  {
    std::lock_guard lock(log_mutex_);
    ++num_unlogged_;
    const SteadyTime now = std::chrono::steady_clock::now();
    if (now - logged_at_ < kBetweenLines) return;
    logged_at_ = now;
    num_calls = std::exchange(num_unlogged_, 0);
  }
  LogLine(spdlog::level::warn, "auth_failed").with("reason", to_string(reason)).with("calls", num_calls);
}

}  // namespace kvcrush
