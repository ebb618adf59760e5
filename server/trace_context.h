// W3C Trace Context: which trace of the caller a request belongs to. The server makes no spans of its own:
// log lines carry the caller's span, and nothing is invented for calls that bring none.
#pragma once

#include <grpcpp/server_context.h>

#include <string>
#include <string_view>
#include <vector>

namespace kvcrush {

struct TraceContext {
  std::string traceparent;  // valid, of version 00; empty: the call has none, or one that is malformed
  std::string tracestate;   // as it came; empty without traceparent, or where it cannot be given back
};

// The traceparent as version 00 says it, unknown flags cleared; empty when it is malformed. Later versions
// are read as far as 00 goes, as the specification asks.
std::string parse_traceparent(std::string_view value);

// One list of all entries; empty when a byte of one is outside [0x20, 0x7E], which gRPC would not send (a tab
// is allowed by the specification, and dropped with the rest).
std::string join_tracestate(const std::vector<std::string_view>& entries);

// From the call's metadata. Several traceparent entries count as malformed; several tracestate entries are
// one list.
TraceContext trace_context_of(const grpc::CallbackServerContext& context);

// Takes it from the call and gives it back in the initial metadata, so that a client can name the trace.
std::string accept_trace(grpc::CallbackServerContext& context);

// Of a valid traceparent.
inline std::string_view trace_id_of(std::string_view traceparent) {
  return traceparent.substr(3, 32);
}
inline std::string_view span_id_of(std::string_view traceparent) {
  return traceparent.substr(36, 16);
}
inline std::string_view trace_flags_of(std::string_view traceparent) {
  return traceparent.substr(53, 2);
}

}  // namespace kvcrush
