// The engine's events as metrics and log lines, and as what load shedding and the watchdog go by.
#pragma once

#include <string_view>

#include "engine/core/observer.h"
#include "server/metrics.h"
#include "server/retry_hint.h"
#include "server/step_watch.h"

namespace kvcrush {

class ServerObserver final : public EngineObserver {
 public:
  explicit ServerObserver(ServerMetrics& metrics) : metrics_(metrics) {}

  void on_arrived(RequestTag tag, int num_prompt_tokens) override;
  void on_scheduled(RequestTag tag, double queue_seconds) override;
  void on_prefix_lookup(RequestTag tag, int num_prompt_tokens, int num_hit_tokens) override;
  void on_preempted(RequestTag tag, std::int64_t blocks_returned, bool swapped) override;
  void on_invalid_logits(RequestTag tag) override;
  void on_token(RequestTag tag, bool is_first, double seconds_since_previous) override;
  void on_pruned(RequestTag tag, const PruneReport& report) override;
  void on_prune_timed(double seconds) override { metrics_.prune_timed(seconds); }
  void on_window_moved(const WindowReport& report) override { metrics_.window_moved(report); }
  void on_finished(RequestTag tag, const FinishEvent& event) override;
  void on_step_failed(std::string_view what) override;
  void on_step_started() override;
  void on_step(const StepReport& report) override;

  const QueueOutflow& outflow() const { return outflow_; }
  const StepProgress& progress() const { return progress_; }

 private:
  ServerMetrics& metrics_;
  QueueOutflow outflow_;
  StepProgress progress_;
};

}  // namespace kvcrush
