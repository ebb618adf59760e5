// What Prometheus scrapes. Names follow vLLM's where the meaning is the same, with our prefix.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "engine/core/observer.h"
#include "engine/core/status.h"
#include "engine/engine.h"
#include "server/state_metrics.h"

namespace kvcrush {

// Why a request was refused for want of room, or of a server that is ready.
enum class ShedReason { kQueueRequests, kQueueTokens, kDraining, kLoading, kTenantLimit };
inline constexpr std::array kShedReasonNames{"queue_requests", "queue_tokens", "draining", "loading",
                                             "tenant_limit"};

struct MetricTotals {  // since start
  std::int64_t prompt_tokens = 0;
  std::int64_t generation_tokens = 0;
  std::int64_t preemptions = 0;
  std::int64_t tokens_evicted = 0;
  std::int64_t blocks_freed_by_pruning = 0;
  std::int64_t prefix_queried_tokens = 0;
  std::int64_t prefix_hit_tokens = 0;
};

// Thread-safe. The functions of the hot path touch only handles made in the constructor.
class ServerMetrics {
 public:
  explicit ServerMetrics(const std::string& server_version);

  void set_model(const std::string& name, const std::string& architecture, const std::string& weight_dtype);

  void arrived(int num_prompt_tokens) { prompt_tokens_.Increment(num_prompt_tokens); }
  void scheduled(double queue_seconds) { queue_seconds_.Observe(queue_seconds); }
  void preempted(bool swapped) { (swapped ? preempted_swap_ : preempted_recompute_).Increment(); }
  void prefix_lookup(int num_prompt_tokens, int num_hit_tokens);
  void token(bool is_first, double seconds);
  void pruned(const PruneReport& report);
  void prune_timed(double seconds) { prune_seconds_.Observe(seconds); }
  void window_moved(const WindowReport& report);
  void finished(const FinishEvent& event);
  void step(const StepReport& report);
  void rejected(StatusCode code);
  void shed(ShedReason reason) { shed_.at(static_cast<std::size_t>(reason))->Increment(); }
  void ended_slow_stream() { ended_slow_streams_.Increment(); }
  void set_engine_stalled(bool stalled) { engine_stalled_.Set(stalled ? 1 : 0); }
  // A sample; both are names of enumerators, so that the number of series is bounded.
  void accepted(const std::string& policy, const std::string& kv_dtype);
  void refresh(const EngineStats& stats);  // the gauges, before a scrape: an idle engine reports no steps

  prometheus::Registry& registry() { return *registry_; }  // for metrics kept elsewhere
  StateMetrics& state() { return state_; }

  MetricTotals totals() const;
  std::string render() const;  // text exposition format 0.0.4

 private:
  void set_gauges(const EngineTotals& totals);

  std::shared_ptr<prometheus::Registry> registry_ = std::make_shared<prometheus::Registry>();
  StateMetrics state_{*registry_};
  prometheus::Gauge& running_;
  prometheus::Gauge& waiting_;
  prometheus::Gauge& queue_tokens_;
  prometheus::Gauge& cache_usage_;
  prometheus::Gauge& blocks_used_;
  prometheus::Gauge& blocks_total_;
  prometheus::Gauge& kv_bytes_used_;
  prometheus::Gauge& kv_bytes_saved_;
  prometheus::Gauge& prefix_cache_blocks_;
  prometheus::Gauge& swap_bytes_used_;
  prometheus::Gauge& resident_bytes_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& generation_tokens_;
  prometheus::Family<prometheus::Counter>& preemptions_;
  prometheus::Counter& preempted_recompute_;
  prometheus::Counter& preempted_swap_;
  prometheus::Counter& prefix_queried_tokens_;
  prometheus::Counter& prefix_hit_tokens_;
  prometheus::Counter& draft_tokens_;
  prometheus::Counter& accepted_draft_tokens_;
  prometheus::Counter& blocks_freed_;
  prometheus::Counter& tokens_evicted_;
  prometheus::Counter& window_blocks_freed_;
  prometheus::Counter& window_tokens_dropped_;
  prometheus::Histogram& first_token_seconds_;
  prometheus::Histogram& inter_token_seconds_;
  prometheus::Histogram& e2e_seconds_;
  prometheus::Histogram& queue_seconds_;
  prometheus::Histogram& iteration_tokens_;
  prometheus::Histogram& compression_ratio_;
  prometheus::Histogram& full_16bit_ratio_;
  prometheus::Histogram& prune_seconds_;
  prometheus::Histogram& step_seconds_;
  prometheus::Family<prometheus::Counter>& success_;
  prometheus::Counter& success_stop_;
  prometheus::Counter& success_length_;
  prometheus::Counter& success_abort_;
  prometheus::Counter& success_error_;
  prometheus::Counter& success_deadline_;
  prometheus::Family<prometheus::Counter>& rejected_;
  prometheus::Family<prometheus::Counter>& accepted_;
  std::array<prometheus::Counter*, kShedReasonNames.size()> shed_{};
  prometheus::Counter& ended_slow_streams_;
  prometheus::Gauge& engine_stalled_;
  prometheus::Family<prometheus::Gauge>& model_info_;
};

}  // namespace kvcrush
