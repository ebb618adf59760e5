// What the engine tells the outside world, for metrics and logs. Called on the loop thread: implementations
// return quickly and never throw. The engine itself knows neither prometheus-cpp nor spdlog.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/core/token_stream.h"

namespace kvcrush {

struct RequestTag {
  std::string_view request_id;
  int index = 0;
  std::string_view label = {};  // the stream's (TokenStream::label)
};

// Of an engine between two steps.
struct EngineTotals {
  int num_running = 0;
  int num_waiting = 0;         // samples
  int num_waiting_tokens = 0;  // that they or their trunks have to compute
  std::int64_t blocks_used = 0;
  std::int64_t blocks_total = 0;
  std::int64_t kv_bytes_used = 0;
  std::int64_t kv_bytes_saved = 0;       // by pruning, of the sequences now running
  std::int64_t prefix_cache_blocks = 0;  // that later prompts may begin with, in use or free
  std::int64_t swap_bytes_used = 0;
};

// A step, and the totals after it.
struct StepReport : EngineTotals {
  int num_prefill_tokens = 0;
  int num_decode_tokens = 0;          // drafts included
  int num_draft_tokens = 0;           // that were looked up and checked,
  int num_accepted_draft_tokens = 0;  // and of them right
  double step_seconds = 0;
};

struct PruneReport {
  int cached_tokens_before = 0;  // per layer (largest)
  int cached_tokens_after = 0;
  std::int64_t tokens_evicted = 0;  // summed over layers
  std::int64_t blocks_freed = 0;
  std::optional<double> seconds = {};  // unset: its device is not done yet, and on_prune_timed() follows
};

// What left the windows of a sequence's layers after a step.
struct WindowReport {
  std::int64_t tokens_dropped = 0;  // summed over layers
  std::int64_t blocks_freed = 0;
};

class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void on_arrived(RequestTag, int /*num_prompt_tokens*/) {}
  virtual void on_scheduled(RequestTag, double /*queue_seconds*/) {}  // first time, not after a preemption
  // A prompt was looked up in the prefix cache.
  virtual void on_prefix_lookup(RequestTag, int /*num_prompt_tokens*/, int /*num_hit_tokens*/) {}
  // swapped: its cache is kept on the host; else it is recomputed.
  virtual void on_preempted(RequestTag, std::int64_t /*blocks_returned*/, bool /*swapped*/) {}
  virtual void on_token(RequestTag, bool /*is_first*/, double /*seconds_since_previous*/) {
  }  // first: since arrival
  virtual void on_pruned(RequestTag, const PruneReport&) {}
  virtual void on_prune_timed(double /*seconds*/) {}    // of a prune that was reported without
  virtual void on_window_moved(const WindowReport&) {}  // something was given back
  virtual void on_finished(RequestTag, const FinishEvent&) {}
  virtual void on_invalid_logits(RequestTag) {}  // the model computed NaN: the sample finishes with kError
  virtual void on_step_started() {}              // on_step follows when it is done, however it went
  virtual void on_step(const StepReport&) {}  // also when nothing ran (no tokens) but gauges may have changed
  virtual void on_step_failed(std::string_view /*what*/) {
  }  // its requests finish with kError; the engine goes on
};

}  // namespace kvcrush
