#include "server/callers.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>

#include "server/retry_hint.h"

namespace kvcrush {
namespace {

constexpr const char* kTenantKey = "x-tenant";

// Unset: the call has no x-tenant.
Result<std::optional<std::string>> tenant_of(const grpc::CallbackServerContext& context) {
  const auto [first, last] = context.client_metadata().equal_range(kTenantKey);
  if (first == last) return std::optional<std::string>();
  const std::string tenant(first->second.data(), first->second.size());
  if (std::next(first) == last && is_tenant_name(tenant)) return std::optional(tenant);
  return invalid_argument(fmt::format(
      "the metadata x-tenant is {} characters long or comes twice, allowed: 1 to 64 of [A-Za-z0-9._-], once",
      tenant.size()));
}

std::vector<std::string_view> authorization_of(const grpc::CallbackServerContext& context) {
  const auto [first, last] = context.client_metadata().equal_range(kAuthorizationKey);
  std::vector<std::string_view> values;
  for (auto at = first; at != last; ++at) values.emplace_back(at->second.data(), at->second.size());
  return values;
}

Status refusal(const LimitRefusal& refused, std::chrono::milliseconds wait) {
  const std::string limit =
      refused.limit == TokenLimit::kConcurrentRequests
          ? fmt::format("{} requests of this token are running, allowed: max_concurrent_requests = {}",
                        refused.allowed, refused.allowed)
          : fmt::format("the requests of this minute are used up, allowed: max_requests_per_minute = {}",
                        refused.allowed);
  return {StatusCode::kResourceExhausted, fmt::format("{}; try again in {} ms", limit, wait.count())};
}

Caller caller_with(const AuthToken& token) {
  Caller caller;
  caller.tenant = token.tenant;
  caller.token_name = token.name;
  caller.share = token.share;
  caller.may_generate = token.may_generate;
  caller.sees_all_tenants = token.is_admin;
  caller.max_tokens_per_request = token.limits.max_tokens_per_request;
  return caller;
}

}  // namespace

Result<Admission> Callers::enter(grpc::CallbackServerContext& context, CallKind kind) {
  if (authenticator_.enabled()) return enter_with_token(context, kind);
  const Result<std::optional<std::string>> tenant = tenant_of(context);
  KVCRUSH_RETURN_IF_ERROR(tenant.status());
  Admission admission;
  admission.caller.tenant = tenant->value_or("");
  return admission;
}

Result<Admission> Callers::enter_with_token(grpc::CallbackServerContext& context, CallKind kind) {
  const std::shared_ptr<const TokenSet> tokens = authenticator_.tokens();
  const AuthToken* token =
      authenticator_.check(*tokens, authorization_of(context), std::chrono::system_clock::now());
  // The call was checked when it came; null: the token has gone or expired since.
  if (token == nullptr) return Status(StatusCode::kUnauthenticated, kUnauthenticated);
  const Result<std::optional<std::string>> tenant = tenant_of(context);
  KVCRUSH_RETURN_IF_ERROR(tenant.status());
  if (tenant->value_or(token->tenant) != token->tenant) {
    return Status(StatusCode::kPermissionDenied,
                  "the metadata x-tenant is not the token's tenant, allowed: its own, or none");
  }
  Admission admission;
  admission.caller = caller_with(*token);
  if (kind == CallKind::kRead) return admission;
  if (!token->may_generate) {
    return Status(StatusCode::kPermissionDenied, "this token has not the scope \"generate\"");
  }
  RunningSlot* slot = kind == CallKind::kGenerate ? &admission.slot : nullptr;
  if (const auto refused = authenticator_.usage().enter(*token, std::chrono::steady_clock::now(), slot)) {
    metrics_.limited(refused->limit);
    const std::chrono::milliseconds wait = spread_later(refused->retry_after, num_hints_++);
    add_retry_hint(context, wait);
    return refusal(*refused, wait);
  }
  return admission;
}

Status limit_tokens(const v1::GenerateRequest& request, MappedRequest& mapped) {
  const Caller& caller = mapped.admission.caller;
  if (caller.max_tokens_per_request == 0) return {};
  const int samples = mapped.engine.num_samples;
  const int most = caller.max_tokens_per_request / samples;
  SamplingParams& sampling = mapped.engine.sampling;
  if (!request.sampling().has_max_tokens()) sampling.max_tokens = std::min(sampling.max_tokens, most);
  if (most >= 1 && sampling.max_tokens <= most && sampling.min_tokens <= sampling.max_tokens) return {};
  return invalid_argument(fmt::format(
      "sampling.max_tokens is {} and sampling.min_tokens {} with {} samples, allowed: at most {} each (this "
      "token's max_tokens_per_request is {}, of all samples together)",
      sampling.max_tokens, sampling.min_tokens, samples, most, caller.max_tokens_per_request));
}

}  // namespace kvcrush
