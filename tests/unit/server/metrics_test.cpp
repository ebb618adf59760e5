#include "server/metrics.h"

#include <gtest/gtest.h>

#include "server/server_observer.h"

namespace kvcrush {
namespace {

void expect_line(const std::string& text, const std::string& line) {
  EXPECT_NE(("\n" + text).find("\n" + line + "\n"), std::string::npos) << line << "\nis not a line of\n"
                                                                       << text;
}

TEST(Metrics, EveryNameIsThereBeforeAnythingHappens) {
  ServerMetrics metrics("9.9");
  metrics.set_model("m", "llama", "Q4_1");
  const std::string text = metrics.render();
  for (const char* name : {"kvcrush_num_requests_running",
                           "kvcrush_num_requests_waiting",
                           "kvcrush_kv_cache_usage_ratio",
                           "kvcrush_time_to_first_token_seconds",
                           "kvcrush_inter_token_latency_seconds",
                           "kvcrush_e2e_request_latency_seconds",
                           "kvcrush_request_queue_time_seconds",
                           "kvcrush_prompt_tokens_total",
                           "kvcrush_generation_tokens_total",
                           "kvcrush_num_preemptions_total",
                           "kvcrush_request_success_total",
                           "kvcrush_iteration_tokens",
                           "kvcrush_kv_blocks_used",
                           "kvcrush_kv_blocks_total",
                           "kvcrush_kv_bytes_used",
                           "kvcrush_kv_bytes_saved",
                           "kvcrush_blocks_freed_by_pruning_total",
                           "kvcrush_spec_decode_num_draft_tokens_total",
                           "kvcrush_spec_decode_num_accepted_tokens_total",
                           "kvcrush_tokens_evicted_total",
                           "kvcrush_compression_ratio",
                           "kvcrush_kv_full_16bit_ratio",
                           "kvcrush_prune_seconds",
                           "kvcrush_step_seconds",
                           "kvcrush_rejected_requests_total",
                           "kvcrush_shed_requests_total",
                           "kvcrush_ended_slow_streams_total",
                           "kvcrush_engine_stalled",
                           "process_resident_memory_bytes",
                           "kvcrush_build_info",
                           "kvcrush_model_info"}) {
    EXPECT_NE(text.find("# TYPE " + std::string(name) + " "), std::string::npos) << name;
  }
  expect_line(text, "kvcrush_build_info{version=\"9.9\"} 1");
  EXPECT_NE(text.find("name=\"m\""), std::string::npos);
}

TEST(Metrics, EngineEventsAreCounted) {
  ServerMetrics metrics("1");
  ServerObserver observer(metrics);
  const RequestTag tag{"r", 0};
  observer.on_arrived(tag, 40);
  observer.on_arrived(tag, 2);
  observer.on_scheduled(tag, 0.5);
  observer.on_token(tag, true, 0.25);
  observer.on_token(tag, false, 0.5);
  observer.on_token(tag, false, 0.25);
  observer.on_preempted(tag, 7, /*swapped=*/false);
  observer.on_pruned(tag, {.cached_tokens_before = 40,
                           .cached_tokens_after = 10,
                           .tokens_evicted = 900,
                           .blocks_freed = 60,
                           .seconds = 0.25});
  observer.on_pruned(tag, {.cached_tokens_before = 10, .cached_tokens_after = 10});
  expect_line(metrics.render(), "kvcrush_prune_seconds_count 1");
  observer.on_prune_timed(0.5);
  observer.on_window_moved({.tokens_dropped = 640, .blocks_freed = 20});
  FinishEvent finish;
  finish.reason = FinishReason::kLength;
  finish.total_ms = 1500;
  finish.compression.pruned = true;
  finish.compression.kv_bytes_before = 400;
  finish.compression.kv_bytes_after = 100;
  finish.compression.kv_bytes_full_16bit = 200;
  finish.compression.kv_bytes_held = 25;
  observer.on_finished(tag, finish);
  metrics.rejected(StatusCode::kResourceExhausted);
  metrics.accepted("snapkv", "int4");
  metrics.accepted("snapkv", "int4");
  metrics.accepted("off", "f32");
  metrics.shed(ShedReason::kQueueTokens);
  metrics.ended_slow_stream();
  metrics.set_engine_stalled(true);
  StepReport report;
  report.num_decode_tokens = 9;
  report.num_draft_tokens = 8;
  report.num_accepted_draft_tokens = 5;
  observer.on_step(report);
  FinishEvent late;
  late.reason = FinishReason::kDeadline;
  observer.on_finished(tag, late);

  const std::string text = metrics.render();
  expect_line(text, "kvcrush_prompt_tokens_total 42");
  expect_line(text, "kvcrush_generation_tokens_total 3");
  expect_line(text, R"(kvcrush_num_preemptions_total{how="recompute"} 1)");
  expect_line(text, R"(kvcrush_num_preemptions_total{how="swap"} 0)");
  expect_line(text, "kvcrush_tokens_evicted_total 900");
  expect_line(text, "kvcrush_blocks_freed_by_pruning_total 60");
  expect_line(text, "kvcrush_blocks_freed_by_windows_total 20");
  expect_line(text, "kvcrush_tokens_past_windows_total 640");
  expect_line(text, "kvcrush_spec_decode_num_draft_tokens_total 8");
  expect_line(text, "kvcrush_spec_decode_num_accepted_tokens_total 5");
  expect_line(text, "kvcrush_time_to_first_token_seconds_sum 0.25");
  expect_line(text, "kvcrush_inter_token_latency_seconds_count 2");
  expect_line(text, "kvcrush_inter_token_latency_seconds_sum 0.75");
  expect_line(text, "kvcrush_request_queue_time_seconds_sum 0.5");
  expect_line(text, "kvcrush_e2e_request_latency_seconds_sum 1.5");
  expect_line(text, "kvcrush_compression_ratio_sum 4");
  expect_line(text, "kvcrush_kv_full_16bit_ratio_sum 8");
  expect_line(text, "kvcrush_accepted_samples_total{kv_dtype=\"int4\",policy=\"snapkv\"} 2");
  expect_line(text, "kvcrush_accepted_samples_total{kv_dtype=\"f32\",policy=\"off\"} 1");
  expect_line(text, "kvcrush_prune_seconds_count 2");
  expect_line(text, "kvcrush_prune_seconds_sum 0.75");
  expect_line(text, "kvcrush_request_success_total{finished_reason=\"length\"} 1");
  expect_line(text, "kvcrush_request_success_total{finished_reason=\"stop\"} 0");
  expect_line(text, "kvcrush_request_success_total{finished_reason=\"deadline\"} 1");
  expect_line(text, "kvcrush_shed_requests_total{reason=\"queue_tokens\"} 1");
  expect_line(text, "kvcrush_shed_requests_total{reason=\"tenant_limit\"} 0");
  expect_line(text, "kvcrush_ended_slow_streams_total 1");
  expect_line(text, "kvcrush_engine_stalled 1");
  expect_line(text, "kvcrush_rejected_requests_total{code=\"RESOURCE_EXHAUSTED\"} 1");
  const MetricTotals totals = metrics.totals();
  EXPECT_EQ(totals.prompt_tokens, 42);
  EXPECT_EQ(totals.generation_tokens, 3);
  EXPECT_EQ(totals.preemptions, 1);
  EXPECT_EQ(totals.tokens_evicted, 900);
  EXPECT_EQ(totals.blocks_freed_by_pruning, 60);
}

TEST(Metrics, UnprunedRequestsHaveNoRatio) {
  ServerMetrics metrics("1");
  metrics.finished(FinishEvent());
  expect_line(metrics.render(), "kvcrush_compression_ratio_count 0");
  expect_line(metrics.render(), "kvcrush_kv_full_16bit_ratio_count 0");
}

TEST(Metrics, GaugesFollowStepsAndStats) {
  ServerMetrics metrics("1");
  StepReport report{{.num_running = 4,
                     .num_waiting = 2,
                     .blocks_used = 30,
                     .blocks_total = 120,
                     .kv_bytes_used = 3000,
                     .kv_bytes_saved = 1000}};
  report.num_prefill_tokens = 5;
  report.num_decode_tokens = 3;
  report.step_seconds = 0.25;
  metrics.step(report);
  std::string text = metrics.render();
  expect_line(text, "kvcrush_num_requests_running 4");
  expect_line(text, "kvcrush_num_requests_waiting 2");
  expect_line(text, "kvcrush_kv_cache_usage_ratio 0.25");
  expect_line(text, "kvcrush_kv_bytes_saved 1000");
  expect_line(text, "kvcrush_iteration_tokens_sum 8");
  expect_line(text, "kvcrush_step_seconds_count 1");
  EngineStats idle;
  idle.blocks_total = 120;
  metrics.refresh(idle);
  text = metrics.render();
  expect_line(text, "kvcrush_num_requests_running 0");
  expect_line(text, "kvcrush_kv_blocks_used 0");
  expect_line(text, "kvcrush_kv_blocks_total 120");
}

}  // namespace
}  // namespace kvcrush
