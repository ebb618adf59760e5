// The hand-off from the engine loop to whoever answers a client: one queue per request. It is bounded by the
// request itself (at most max_tokens events per sample plus one finish each), so the loop never waits for a
// slow reader.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/core/types.h"

namespace kvcrush {

enum class FinishReason {
  kStop,
  kLength,
  kAbort,
  kError,     // the step failed, or the model gave no valid numbers; see the log
  kDeadline,  // the request's deadline passed
};

struct LogprobEntry {
  TokenId token = 0;
  float logprob = 0.0f;
};

struct TokenEvent {
  int index = 0;  // sample
  TokenId token = 0;
  bool is_end_token = false;               // ends the sequence and is not part of its text
  std::optional<LogprobEntry> logprob;     // of `token`, when asked for
  std::vector<LogprobEntry> top_logprobs;  // likeliest first
};

// What the continuation's tokens would have cost under one sample's cache; one entry per token. Token 0 is
// predicted by the prompt's last token, before anything is pruned.
struct ScoreEvent {
  int index = 0;                      // sample
  std::vector<float> logprobs;        // natural log
  std::vector<float> kl_divergences;  // KL(full || this cache), nats; empty without comparison, as below
  std::vector<bool> top1_agrees;      // the likeliest token is that of the full cache
  std::vector<float> full_logprobs;   // under the full cache
};

struct LayerSpread {
  int min = 0;
  double mean = 0;
  int max = 0;
};

// The layers with a sliding window at a sequence's end: what their windows left behind is no work of
// pruning.
struct WindowOutcome {
  int num_layers = 0;          // 0: the model has none, or none that the context can fill
  LayerSpread tokens_cached;   // over these layers alone, like those below
  LayerSpread tokens_evicted;  // by pruning
  LayerSpread tokens_dropped;  // past the window
};

struct CompressionOutcome {
  bool enabled = false;
  bool pruned = false;
  int budget_tokens = 0;
  LayerSpread tokens_kept;     // over all layers
  LayerSpread tokens_evicted;  // by pruning, over all layers
  WindowOutcome windows;
  std::int64_t kv_bytes_before = 0;
  std::int64_t kv_bytes_after = 0;
  std::int64_t blocks_freed = 0;
  int prune_count = 0;
  int lookahead_tokens = 0;       // run over before the first prune, then forgotten
  int lookahead_tokens_used = 0;  // of them, tokens that came out the same and cost no step of their own
  double prune_ms = 0;            // of all prunes whose time is known
  double score_ms = 0;            // its parts
  double select_ms = 0;
  double compact_ms = 0;
  std::int64_t kv_bytes_full_16bit = 0;  // K and V of all the sequence's tokens at 16 bit each
  std::int64_t kv_bytes_held = 0;        // pool bytes at the end
  std::string note;                      // why nothing was pruned or quantised, where that is so
};

struct FinishEvent {
  int index = 0;
  FinishReason reason = FinishReason::kStop;
  int prompt_tokens = 0;
  int completion_tokens = 0;
  double queue_ms = 0;                // arrival to first scheduled
  double time_to_first_token_ms = 0;  // arrival to first token; 0 when there was none
  double total_ms = 0;
  int preemptions = 0;
  int swaps = 0;                  // preemptions after which nothing was recomputed
  int cached_prompt_tokens = 0;   // found in the prefix cache
  int drafted_tokens = 0;         // looked up and checked
  int accepted_draft_tokens = 0;  // of them right: they cost no step of their own
  CompressionOutcome compression;
};

using StreamEvent = std::variant<TokenEvent, ScoreEvent, FinishEvent>;

class TokenStream {
 public:
  // `on_ready` is called on the engine's thread after events were added to an empty queue; it must return at
  // once. `label` goes with the request's tag to the observer; the engine does not look at it.
  explicit TokenStream(std::function<void()> on_ready = {}, std::string label = {})
      : on_ready_(std::move(on_ready)), label_(std::move(label)) {}

  void push(StreamEvent event);
  // Takes all queued events; empty when there are none.
  std::deque<StreamEvent> take();
  const std::string& label() const { return label_; }

 private:
  const std::function<void()> on_ready_;
  const std::string label_;
  std::mutex mutex_;
  std::deque<StreamEvent> events_;  // guarded by mutex_
};

}  // namespace kvcrush
