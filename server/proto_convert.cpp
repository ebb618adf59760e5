#include "server/proto_convert.h"

#include <cstddef>
#include <string>

namespace kvcrush {
namespace {

constexpr std::size_t kMaxStatusBytes = 2048;

grpc::StatusCode to_grpc_code(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return grpc::StatusCode::OK;
    case StatusCode::kInvalidArgument:
      return grpc::StatusCode::INVALID_ARGUMENT;
    case StatusCode::kNotFound:
      return grpc::StatusCode::NOT_FOUND;
    case StatusCode::kAlreadyExists:
      return grpc::StatusCode::ALREADY_EXISTS;
    case StatusCode::kResourceExhausted:
      return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case StatusCode::kFailedPrecondition:
      return grpc::StatusCode::FAILED_PRECONDITION;
    case StatusCode::kUnavailable:
      return grpc::StatusCode::UNAVAILABLE;
    case StatusCode::kDeadlineExceeded:
      return grpc::StatusCode::DEADLINE_EXCEEDED;
    case StatusCode::kCancelled:
      return grpc::StatusCode::CANCELLED;
    case StatusCode::kUnimplemented:
      return grpc::StatusCode::UNIMPLEMENTED;
    case StatusCode::kInternal:
      return grpc::StatusCode::INTERNAL;
    case StatusCode::kPermissionDenied:
      return grpc::StatusCode::PERMISSION_DENIED;
    case StatusCode::kUnauthenticated:
      return grpc::StatusCode::UNAUTHENTICATED;
  }
  return grpc::StatusCode::INTERNAL;
}

void fill_spread(const LayerSpread& spread, v1::LayerTokens& out) {
  out.set_min(spread.min);
  out.set_mean(spread.mean);
  out.set_max(spread.max);
}

void fill_report(const CompressionOutcome& outcome, v1::CompressionReport& report) {
  report.set_enabled(outcome.enabled);
  report.set_pruned(outcome.pruned);
  report.set_budget_tokens(outcome.budget_tokens);
  fill_spread(outcome.tokens_kept, *report.mutable_tokens_kept());
  fill_spread(outcome.tokens_evicted, *report.mutable_tokens_evicted());
  if (const WindowOutcome& windows = outcome.windows; windows.num_layers > 0) {
    v1::WindowLayers& out = *report.mutable_windows();
    out.set_num_layers(windows.num_layers);
    fill_spread(windows.tokens_cached, *out.mutable_tokens_cached());
    fill_spread(windows.tokens_evicted, *out.mutable_tokens_evicted());
    fill_spread(windows.tokens_dropped, *out.mutable_tokens_dropped());
  }
  report.set_kv_bytes_before(outcome.kv_bytes_before);
  report.set_kv_bytes_after(outcome.kv_bytes_after);
  report.set_blocks_freed(outcome.blocks_freed);
  report.set_prune_count(outcome.prune_count);
  report.set_prune_ms(outcome.prune_ms);
  report.set_lookahead_tokens(outcome.lookahead_tokens);
  report.set_lookahead_tokens_used(outcome.lookahead_tokens_used);
  report.set_score_ms(outcome.score_ms);
  report.set_select_ms(outcome.select_ms);
  report.set_compact_ms(outcome.compact_ms);
  report.set_kv_bytes_full_16bit(outcome.kv_bytes_full_16bit);
  report.set_compression_ratio(compression_ratio(outcome));
  report.set_note(outcome.note);
}

}  // namespace

grpc::Status to_grpc_status(const Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string message = status.message();
  if (message.size() > kMaxStatusBytes) {
    std::size_t end = kMaxStatusBytes;
    while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0u) == 0x80u) --end;
    message = message.substr(0, end) + "...";
  }
  return {to_grpc_code(status.code()), message};
}

double compression_ratio(const CompressionOutcome& outcome) {
  if (outcome.kv_bytes_held <= 0) return 0;
  return static_cast<double>(outcome.kv_bytes_full_16bit) / static_cast<double>(outcome.kv_bytes_held);
}

v1::FinishReason to_proto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kAbort:
    case FinishReason::kError:  // the status says INTERNAL
      return v1::FINISH_REASON_ABORT;
    case FinishReason::kDeadline:
      return v1::FINISH_REASON_DEADLINE;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void fill_finish_info(const FinishEvent& event, const v1::KvCompression& applied, v1::FinishInfo& info) {
  info.set_reason(to_proto(event.reason));
  v1::Usage& usage = *info.mutable_usage();
  usage.set_prompt_tokens(event.prompt_tokens);
  usage.set_completion_tokens(event.completion_tokens);
  usage.set_queue_ms(event.queue_ms);
  usage.set_time_to_first_token_ms(event.time_to_first_token_ms);
  usage.set_total_ms(event.total_ms);
  usage.set_preemptions(event.preemptions);
  usage.set_swaps(event.swaps);
  usage.set_cached_prompt_tokens(event.cached_prompt_tokens);
  usage.set_drafted_tokens(event.drafted_tokens);
  usage.set_accepted_draft_tokens(event.accepted_draft_tokens);
  fill_report(event.compression, *info.mutable_compression());
  v1::KvCompression& as_done = *info.mutable_compression()->mutable_applied();
  as_done = applied;
  // A compression target becomes a budget only once the prompt's length is known.
  if (as_done.budget_case() == v1::KvCompression::BUDGET_NOT_SET && event.compression.budget_tokens > 0)
    as_done.set_budget_tokens(event.compression.budget_tokens);
}

}  // namespace kvcrush
