#include "server/metrics.h"

#include <prometheus/text_serializer.h>

#include <vector>

#include "server/bytes.h"
#include "server/proto_convert.h"

namespace kvcrush {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

const Buckets kLatencySeconds{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                              1,     2.5,   5,    10,    30,   60,  120,  300};
const Buckets kInterTokenSeconds{0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05,
                                 0.075, 0.1,    0.15,  0.2,  0.3,   0.5,  1,    2.5};
const Buckets kStepSeconds{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};
const Buckets kIterationTokens{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};
const Buckets kRatios{1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 16, 32};

prometheus::Gauge& gauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

prometheus::Counter& counter(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

prometheus::Histogram& histogram(prometheus::Registry& registry, const char* name, const char* help,
                                 const Buckets& buckets) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, buckets);
}

std::int64_t whole(const prometheus::Counter& counter) {
  return static_cast<std::int64_t>(counter.Value());
}

}  // namespace

ServerMetrics::ServerMetrics(const std::string& server_version)
    : running_(gauge(*registry_, "kvcrush_num_requests_running", "Sequences that hold KV blocks")),
      waiting_(gauge(*registry_, "kvcrush_num_requests_waiting", "Sequences that are queued")),
      queue_tokens_(gauge(*registry_, "kvcrush_queue_tokens",
                          "Prompt tokens of queued sequences that have yet to be computed")),
      cache_usage_(
          gauge(*registry_, "kvcrush_kv_cache_usage_ratio", "Share of the KV blocks in use, 0 to 1")),
      blocks_used_(gauge(*registry_, "kvcrush_kv_blocks_used", "KV blocks in use")),
      blocks_total_(gauge(*registry_, "kvcrush_kv_blocks_total", "KV blocks of the pool")),
      kv_bytes_used_(gauge(*registry_, "kvcrush_kv_bytes_used", "Bytes of the KV blocks in use")),
      kv_bytes_saved_(gauge(*registry_, "kvcrush_kv_bytes_saved",
                            "KV bytes that running sequences would hold without pruning")),
      prefix_cache_blocks_(gauge(*registry_, "kvcrush_prefix_cache_blocks",
                                 "KV blocks that later prompts may begin with, in use or free")),
      swap_bytes_used_(
          gauge(*registry_, "kvcrush_swap_bytes_used", "Host bytes of the KV caches of preempted sequences")),
      resident_bytes_(
          gauge(*registry_, "process_resident_memory_bytes", "Resident memory of this process in bytes")),
      prompt_tokens_(counter(*registry_, "kvcrush_prompt_tokens_total", "Prompt tokens of accepted samples")),
      generation_tokens_(counter(*registry_, "kvcrush_generation_tokens_total", "Tokens generated")),
      preemptions_(
          prometheus::BuildCounter()
              .Name("kvcrush_num_preemptions_total")
              .Help("Times that a sequence gave its blocks back, to be recomputed or swapped in later")
              .Register(*registry_)),
      preempted_recompute_(preemptions_.Add({{"how", "recompute"}})),
      preempted_swap_(preemptions_.Add({{"how", "swap"}})),
      prefix_queried_tokens_(counter(*registry_, "kvcrush_prefix_cache_queried_tokens_total",
                                     "Prompt tokens that were looked up in the prefix cache")),
      prefix_hit_tokens_(counter(*registry_, "kvcrush_prefix_cache_hit_tokens_total",
                                 "Prompt tokens that were found in the prefix cache")),
      draft_tokens_(counter(*registry_, "kvcrush_spec_decode_num_draft_tokens_total",
                            "Tokens that prompt lookup guessed and that were checked")),
      accepted_draft_tokens_(counter(*registry_, "kvcrush_spec_decode_num_accepted_tokens_total",
                                     "Guessed tokens that were right and cost no step of their own")),
      blocks_freed_(
          counter(*registry_, "kvcrush_blocks_freed_by_pruning_total", "KV blocks that pruning freed")),
      tokens_evicted_(counter(*registry_, "kvcrush_tokens_evicted_total",
                              "Token slots that pruning evicted, summed over layers")),
      window_blocks_freed_(counter(*registry_, "kvcrush_blocks_freed_by_windows_total",
                                   "KV blocks that layers' sliding windows had passed")),
      window_tokens_dropped_(counter(*registry_, "kvcrush_tokens_past_windows_total",
                                     "Token slots that sliding windows had passed, summed over layers")),
      first_token_seconds_(histogram(*registry_, "kvcrush_time_to_first_token_seconds",
                                     "From a sample's arrival to its first token", kLatencySeconds)),
      inter_token_seconds_(histogram(*registry_, "kvcrush_inter_token_latency_seconds",
                                     "Between two tokens of a sample", kInterTokenSeconds)),
      e2e_seconds_(histogram(*registry_, "kvcrush_e2e_request_latency_seconds",
                             "From a sample's arrival to its end", kLatencySeconds)),
      queue_seconds_(histogram(*registry_, "kvcrush_request_queue_time_seconds",
                               "From a sample's arrival to when it is first scheduled", kLatencySeconds)),
      iteration_tokens_(histogram(*registry_, "kvcrush_iteration_tokens",
                                  "Tokens of one engine step, prefill and decode together",
                                  kIterationTokens)),
      compression_ratio_(histogram(
          *registry_, "kvcrush_compression_ratio",
          "KV bytes without pruning over KV bytes held, of each pruned sample at its end", kRatios)),
      full_16bit_ratio_(histogram(*registry_, "kvcrush_kv_full_16bit_ratio",
                                  "KV bytes of a full 16-bit cache over the pool bytes held, of each sample "
                                  "at its end: pruning and kv_dtype together",
                                  kRatios)),
      prune_seconds_(histogram(*registry_, "kvcrush_prune_seconds",
                               "Time to score, select and compact one sequence", kStepSeconds)),
      step_seconds_(histogram(*registry_, "kvcrush_step_seconds", "Time of one engine step", kStepSeconds)),
      success_(prometheus::BuildCounter()
                   .Name("kvcrush_request_success_total")
                   .Help("Samples that have ended, by reason")
                   .Register(*registry_)),
      success_stop_(success_.Add({{"finished_reason", "stop"}})),
      success_length_(success_.Add({{"finished_reason", "length"}})),
      success_abort_(success_.Add({{"finished_reason", "abort"}})),
      success_error_(success_.Add({{"finished_reason", "error"}})),
      success_deadline_(success_.Add({{"finished_reason", "deadline"}})),
      rejected_(prometheus::BuildCounter()
                    .Name("kvcrush_rejected_requests_total")
                    .Help("Generation requests that were refused, by gRPC status code")
                    .Register(*registry_)),
      accepted_(prometheus::BuildCounter()
                    .Name("kvcrush_accepted_samples_total")
                    .Help("Samples that were taken on, by how their KV cache is kept")
                    .Register(*registry_)),
      ended_slow_streams_(counter(*registry_, "kvcrush_ended_slow_streams_total",
                                  "Calls ended because their client did not read fast enough")),
      engine_stalled_(gauge(*registry_, "kvcrush_engine_stalled",
                            "1 while an engine step has not finished within --step-stall-timeout")),
      model_info_(prometheus::BuildGauge()
                      .Name("kvcrush_model_info")
                      .Help("The model that is served; always 1")
                      .Register(*registry_)) {
  prometheus::BuildGauge()
      .Name("kvcrush_build_info")
      .Help("The server's version; always 1")
      .Register(*registry_)
      .Add({{"version", server_version}})
      .Set(1);
  // Codes that a healthy server gives out are there from the start, so that rate() sees the first one.
  for (const StatusCode code :
       {StatusCode::kInvalidArgument, StatusCode::kAlreadyExists, StatusCode::kResourceExhausted,
        StatusCode::kUnavailable, StatusCode::kDeadlineExceeded}) {
    rejected_.Add({{"code", std::string(to_string(code))}});
  }
  auto& shed = prometheus::BuildCounter()
                   .Name("kvcrush_shed_requests_total")
                   .Help("Requests refused for want of room, or of a server that is ready, by reason")
                   .Register(*registry_);
  for (std::size_t i = 0; i < shed_.size(); ++i)
    shed_.at(i) = &shed.Add({{"reason", kShedReasonNames.at(i)}});
}

void ServerMetrics::set_model(const std::string& name, const std::string& architecture,
                              const std::string& weight_dtype) {
  model_info_.Add({{"name", name}, {"architecture", architecture}, {"weight_dtype", weight_dtype}}).Set(1);
}

void ServerMetrics::token(bool is_first, double seconds) {
  generation_tokens_.Increment();
  (is_first ? first_token_seconds_ : inter_token_seconds_).Observe(seconds);
}

void ServerMetrics::pruned(const PruneReport& report) {
  blocks_freed_.Increment(static_cast<double>(report.blocks_freed));
  tokens_evicted_.Increment(static_cast<double>(report.tokens_evicted));
  if (report.seconds) prune_timed(*report.seconds);
}

void ServerMetrics::window_moved(const WindowReport& report) {
  window_blocks_freed_.Increment(static_cast<double>(report.blocks_freed));
  window_tokens_dropped_.Increment(static_cast<double>(report.tokens_dropped));
}

void ServerMetrics::finished(const FinishEvent& event) {
  switch (event.reason) {
    case FinishReason::kStop:
      success_stop_.Increment();
      break;
    case FinishReason::kLength:
      success_length_.Increment();
      break;
    case FinishReason::kAbort:
      success_abort_.Increment();
      break;
    case FinishReason::kError:
      success_error_.Increment();
      break;
    case FinishReason::kDeadline:
      success_deadline_.Increment();
      break;
  }
  e2e_seconds_.Observe(event.total_ms / 1000.0);
  const CompressionOutcome& outcome = event.compression;
  if (outcome.pruned && outcome.kv_bytes_after > 0) {
    compression_ratio_.Observe(static_cast<double>(outcome.kv_bytes_before) /
                               static_cast<double>(outcome.kv_bytes_after));
  }
  if (const double ratio = compression_ratio(outcome); ratio > 0) full_16bit_ratio_.Observe(ratio);
}

void ServerMetrics::prefix_lookup(int num_prompt_tokens, int num_hit_tokens) {
  prefix_queried_tokens_.Increment(num_prompt_tokens);
  prefix_hit_tokens_.Increment(num_hit_tokens);
}

void ServerMetrics::step(const StepReport& report) {
  set_gauges(report);
  const int num_tokens = report.num_prefill_tokens + report.num_decode_tokens;
  if (num_tokens == 0) return;  // only the gauges had news
  iteration_tokens_.Observe(num_tokens);
  step_seconds_.Observe(report.step_seconds);
  draft_tokens_.Increment(report.num_draft_tokens);
  accepted_draft_tokens_.Increment(report.num_accepted_draft_tokens);
}

void ServerMetrics::refresh(const EngineStats& stats) {
  set_gauges(stats);
}

void ServerMetrics::set_gauges(const EngineTotals& totals) {
  running_.Set(totals.num_running);
  waiting_.Set(totals.num_waiting);
  queue_tokens_.Set(totals.num_waiting_tokens);
  const auto used = static_cast<double>(totals.blocks_used);
  const auto total = static_cast<double>(totals.blocks_total);
  blocks_used_.Set(used);
  blocks_total_.Set(total);
  cache_usage_.Set(total > 0 ? used / total : 0);
  kv_bytes_used_.Set(static_cast<double>(totals.kv_bytes_used));
  kv_bytes_saved_.Set(static_cast<double>(totals.kv_bytes_saved));
  prefix_cache_blocks_.Set(static_cast<double>(totals.prefix_cache_blocks));
  swap_bytes_used_.Set(static_cast<double>(totals.swap_bytes_used));
}

void ServerMetrics::rejected(StatusCode code) {
  rejected_.Add({{"code", std::string(to_string(code))}}).Increment();
}

void ServerMetrics::accepted(const std::string& policy, const std::string& kv_dtype) {
  accepted_.Add({{"policy", policy}, {"kv_dtype", kv_dtype}}).Increment();
}

MetricTotals ServerMetrics::totals() const {
  return {.prompt_tokens = whole(prompt_tokens_),
          .generation_tokens = whole(generation_tokens_),
          .preemptions = whole(preempted_recompute_) + whole(preempted_swap_),
          .tokens_evicted = whole(tokens_evicted_),
          .blocks_freed_by_pruning = whole(blocks_freed_),
          .prefix_queried_tokens = whole(prefix_queried_tokens_),
          .prefix_hit_tokens = whole(prefix_hit_tokens_)};
}

std::string ServerMetrics::render() const {
  resident_bytes_.Set(static_cast<double>(resident_memory_bytes()));
  return prometheus::TextSerializer().Serialize(registry_->Collect());
}

}  // namespace kvcrush
