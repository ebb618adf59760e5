#include "client/call_headers.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <string_view>

namespace kvcrush::client {
namespace {

constexpr std::size_t kMaxTenantBytes = 128;

bool visible_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

bool lower_hex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool is_traceparent(std::string_view text) {
  constexpr std::size_t kVersionEnd = 2;
  constexpr std::size_t kTraceEnd = 35;
  constexpr std::size_t kParentEnd = 52;
  if (text.size() != 55 || !text.starts_with("00-")) return false;
  if (text[kVersionEnd] != '-' || text[kTraceEnd] != '-' || text[kParentEnd] != '-') return false;
  const auto trace = text.substr(3, 32);
  const auto parent = text.substr(36, 16);
  const auto some = [](std::string_view id) { return id.find_first_not_of('0') != std::string_view::npos; };
  return lower_hex(trace) && lower_hex(parent) && lower_hex(text.substr(53)) && some(trace) && some(parent);
}

Status invalid(const std::string& message) {
  return {Code::kInvalidArgument, message};
}

}  // namespace

Status check_headers(const CallHeaders& headers) {
  if (!visible_ascii(headers.token))
    return invalid("the token holds white space or other than ASCII characters");
  if (!visible_ascii(headers.tenant) || headers.tenant.size() > kMaxTenantBytes)
    return invalid("tenant is '" + headers.tenant + "', allowed: up to " + std::to_string(kMaxTenantBytes) +
                   " visible ASCII characters");
  if (!headers.traceparent.empty() && !is_traceparent(headers.traceparent))
    return invalid(
        "traceparent is '" + headers.traceparent +
        "', allowed: 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, in lower case, ids not zero");
  return {};
}

void add_headers(const CallHeaders& headers, grpc::ClientContext& context) {
  if (!headers.token.empty()) context.AddMetadata("authorization", "Bearer " + headers.token);
  if (!headers.tenant.empty()) context.AddMetadata("x-tenant", headers.tenant);
  if (!headers.traceparent.empty()) context.AddMetadata("traceparent", headers.traceparent);
}

}  // namespace kvcrush::client
