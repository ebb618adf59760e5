#include "server/trace_context.h"

#include <algorithm>

namespace kvcrush {
namespace {

constexpr std::string_view kParentKey = "traceparent";
constexpr std::string_view kStateKey = "tracestate";
constexpr std::size_t kLength = 55;     // of version 00: 2 + 32 + 16 + 2 digits and three dashes
constexpr unsigned kKnownFlags = 0x03;  // sampled, random trace id

// The specification knows lower case alone.
bool is_hex(std::string_view digits) {
  return std::all_of(digits.begin(), digits.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool is_zero(std::string_view digits) {
  return digits.find_first_not_of('0') == std::string_view::npos;
}

std::string_view view_of(const grpc::string_ref& value) {
  return {value.data(), value.size()};
}

// What gRPC lets a server send; anything else aborts the process, though it is let in.
bool is_printable(std::string_view value) {
  return std::all_of(value.begin(), value.end(), [](char c) { return c >= 0x20 && c <= 0x7E; });
}

}  // namespace

std::string parse_traceparent(std::string_view value) {
  if (value.size() < kLength || value[2] != '-' || value[35] != '-' || value[52] != '-') return {};
  const std::string_view version = value.substr(0, 2);
  if (!is_hex(version) || version == "ff") return {};
  if (value.size() > kLength && (version == "00" || value[kLength] != '-')) return {};
  const std::string_view trace_id = trace_id_of(value);
  const std::string_view span_id = span_id_of(value);
  const std::string_view flags = trace_flags_of(value);
  if (!is_hex(trace_id) || is_zero(trace_id) || !is_hex(span_id) || is_zero(span_id) || !is_hex(flags))
    return {};
  const char last_flags = flags[1];
  const unsigned low = static_cast<unsigned>(last_flags <= '9' ? last_flags - '0' : last_flags - 'a' + 10);
  std::string parent = "00-";
  parent.append(trace_id).append("-").append(span_id).append("-0");
  parent.push_back(static_cast<char>('0' + (low & kKnownFlags)));
  return parent;
}

std::string join_tracestate(const std::vector<std::string_view>& entries) {
  std::string state;
  for (const std::string_view entry : entries) {
    if (!is_printable(entry)) return {};
    if (!state.empty()) state += ',';
    state.append(entry);
  }
  return state;
}

TraceContext trace_context_of(const grpc::CallbackServerContext& context) {
  const auto& metadata = context.client_metadata();
  const grpc::string_ref parent_key(kParentKey.data(), kParentKey.size());
  const grpc::string_ref state_key(kStateKey.data(), kStateKey.size());
  TraceContext trace;
  if (metadata.count(parent_key) != 1) return trace;
  trace.traceparent = parse_traceparent(view_of(metadata.find(parent_key)->second));
  if (trace.traceparent.empty()) return trace;
  const auto [first, last] = metadata.equal_range(state_key);
  std::vector<std::string_view> entries;
  for (auto entry = first; entry != last; ++entry) entries.push_back(view_of(entry->second));
  trace.tracestate = join_tracestate(entries);
  return trace;
}

std::string accept_trace(grpc::CallbackServerContext& context) {
  TraceContext trace = trace_context_of(context);
  if (trace.traceparent.empty()) return {};
  context.AddInitialMetadata(std::string(kParentKey), trace.traceparent);
  if (!trace.tracestate.empty()) context.AddInitialMetadata(std::string(kStateKey), trace.tracestate);
  return std::move(trace.traceparent);
}

}  // namespace kvcrush
