#include "server/server_observer.h"

#include <string_view>

#include "server/logging.h"
#include "server/proto_convert.h"

namespace kvcrush {
namespace {

std::string_view name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kAbort:
      return "abort";
    case FinishReason::kError:
      return "error";
    case FinishReason::kDeadline:
      return "deadline";
  }
  return "unknown";
}

}  // namespace

void ServerObserver::on_arrived(RequestTag tag, int num_prompt_tokens) {
  metrics_.arrived(num_prompt_tokens);
  LogLine(spdlog::level::debug, "queued").with_request(tag.request_id, tag.label).with("index", tag.index);
}

void ServerObserver::on_scheduled(RequestTag tag, double queue_seconds) {
  metrics_.scheduled(queue_seconds);
  outflow_.left(QueueOutflow::Clock::now());
  LogLine(spdlog::level::info, "scheduled")
      .with_request(tag.request_id, tag.label)
      .with("index", tag.index)
      .with("queue_ms", queue_seconds * 1e3);
}

void ServerObserver::on_prefix_lookup(RequestTag tag, int num_prompt_tokens, int num_hit_tokens) {
  metrics_.prefix_lookup(num_prompt_tokens, num_hit_tokens);
  LogLine(spdlog::level::debug, "prefix_lookup")
      .with_request(tag.request_id, tag.label)
      .with("index", tag.index)
      .with("prompt_tokens", num_prompt_tokens)
      .with("cached_prompt_tokens", num_hit_tokens);
}

void ServerObserver::on_preempted(RequestTag tag, std::int64_t blocks_returned, bool swapped) {
  metrics_.preempted(swapped);
  LogLine(spdlog::level::info, "preempted")
      .with_request(tag.request_id, tag.label)
      .with("index", tag.index)
      .with("how", swapped ? "swap" : "recompute")
      .with("blocks_returned", blocks_returned);
}

void ServerObserver::on_invalid_logits(RequestTag tag) {
  LogLine(spdlog::level::err, "invalid_logits")
      .with_request(tag.request_id, tag.label)
      .with("index", tag.index)
      .with("reason", "the model computed NaN; the sample ends with an error");
}

void ServerObserver::on_token(RequestTag tag, bool is_first, double seconds_since_previous) {
  metrics_.token(is_first, seconds_since_previous);
  if (!is_first) return;
  LogLine(spdlog::level::info, "first_token")
      .with_request(tag.request_id, tag.label)
      .with("index", tag.index)
      .with("time_to_first_token_ms", seconds_since_previous * 1e3);
}

void ServerObserver::on_pruned(RequestTag tag, const PruneReport& report) {
  metrics_.pruned(report);
  LogLine line(spdlog::level::info, "pruned");
  line.with_request(tag.request_id, tag.label)
      .with("index", tag.index)
      .with("cached_tokens_before", report.cached_tokens_before)
      .with("cached_tokens_after", report.cached_tokens_after)
      .with("blocks_freed", report.blocks_freed);
  if (report.seconds) line.with("prune_ms", *report.seconds * 1e3);
}

void ServerObserver::on_step_started() {
  progress_.began(StepProgress::Clock::now());
}

void ServerObserver::on_step(const StepReport& report) {
  progress_.finished();
  outflow_.set_waiting(report.num_waiting, QueueOutflow::Clock::now());
  metrics_.step(report);
}

void ServerObserver::on_step_failed(std::string_view what) {
  LogLine(spdlog::level::err, "step_failed").with("reason", what);
}

void ServerObserver::on_finished(RequestTag tag, const FinishEvent& event) {
  metrics_.finished(event);
  LogLine(spdlog::level::info, "finished")
      .with_request(tag.request_id, tag.label)
      .with("index", tag.index)
      .with("reason", name_of(event.reason))
      .with("prompt_tokens", event.prompt_tokens)
      .with("completion_tokens", event.completion_tokens)
      .with("queue_ms", event.queue_ms)
      .with("time_to_first_token_ms", event.time_to_first_token_ms)
      .with("total_ms", event.total_ms)
      .with("cached_prompt_tokens", event.cached_prompt_tokens)
      .with("drafted_tokens", event.drafted_tokens)
      .with("accepted_draft_tokens", event.accepted_draft_tokens)
      .with("preemptions", event.preemptions)
      .with("pruned", event.compression.pruned)
      .with("kv_bytes_before", event.compression.kv_bytes_before)
      .with("kv_bytes_after", event.compression.kv_bytes_after)
      .with("compression_ratio", compression_ratio(event.compression));
}

}  // namespace kvcrush
