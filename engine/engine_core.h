// The engine without its thread: sequences, scheduler, model and samplers, advanced one step at a time. Used
// by one thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/core/observer.h"
#include "engine/engine.h"
#include "engine/model/model_executor.h"
#include "engine/sampling/sampler.h"
#include "engine/scheduler/scheduler.h"
#include "engine/swap_meter.h"

namespace kvcrush {

// What a step has for the clients. Held back until ids, blocks and statistics tell the same story: a client
// that hears of an end must not find the request's id or blocks still taken.
struct OutgoingEvent {
  std::shared_ptr<TokenStream> stream;
  StreamEvent event;
  std::string finished_request_id;  // of a FinishEvent; else empty
};

inline double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}
inline RequestTag tag_of(const Sequence& sequence) {
  return {sequence.request_id, sequence.index, sequence.stream->label()};
}

class EngineCore {
 public:
  EngineCore(std::shared_ptr<const ModelFile> model, const EngineConfig& config, const EngineLimits& limits,
             KvDtype default_dtype, std::unique_ptr<ModelExecutor> executor, EngineObserver& observer);

  // One Sequence per sample, and a trunk where they share a prefill.
  void add(const EngineRequest& request, const std::shared_ptr<TokenStream>& stream,
           Clock::time_point arrived_at);
  // Finishes the samples whose deadline has passed.
  void expire(Clock::time_point now);
  // Finishes matching sequences; none may be left. `index` unset: all samples.
  void finish(const std::string& request_id, std::optional<int> index, FinishReason reason);
  void finish_all(FinishReason reason);
  // Plan, run, sample, apply. Call take_events() next, then prune().
  void step();
  // Prunes and packs the sequences of the last step that are due. Comes after publishing: the next token of a
  // sequence does not depend on it, only the one after. False: none was.
  bool prune();

  bool idle() const { return scheduler_.idle(); }
  // As they were at the end of the last step, prune or finish_all(): they are counted once for all who ask.
  const EngineTotals& totals() const { return totals_; }
  // Events since the last call, in order; the caller pushes them.
  std::vector<OutgoingEvent> take_events() { return std::exchange(events_, {}); }
  std::vector<SequenceStats> describe_sequences() const;

 private:
  void note_preemptions(const StepPlan& plan);
  void note_prefixes(const StepPlan& plan);
  // Moves caches between pool and host as the plan says.
  void swap(const StepPlan& plan);
  // Lets others begin with the prompt's blocks that are full now.
  void share_prefix(Sequence& sequence, int num_tokens);
  void note_scheduled(const StepPlan& plan);
  void advance(const StepPlan& plan);
  void drop_past_windows(const StepPlan& plan);
  // Gives the rows of logits to those who wanted them: samplers, scores, trunks.
  void use_logits(const StepPlan& plan, const at::Tensor& device_logits);
  // False: the executor does not sample, or some rows are wanted for something else.
  bool sample_on_device(const StepPlan& plan, const at::Tensor& logits);
  void emit(const Sequence& sequence, StreamEvent event);
  void start_forks(const StepPlan& plan);
  void finish_scores(const StepPlan& plan);
  // Takes a branch of a lookahead that is complete out of the cache. After the last one the prune is due that
  // it was made for.
  void end_lookahead(Sequence& sequence);
  void ready_trunks(const StepPlan& plan);
  void ready_trunk(Sequence& trunk);
  void drop_trunk_if_done(ForkGroup& group);
  SampleResult sample(const Sequence& sequence, std::span<float> logits);
  // End tokens, as long as the request wants more than `num_output_tokens`.
  static std::span<const TokenId> banned_tokens(const Sequence& sequence, int num_output_tokens);
  // False: that was its last token, and the sequence is gone.
  bool apply(Sequence& sequence, SampleResult sampled);
  // Takes tokens from a chunk of the newest token and drafts after it as far as the drafts were right, and
  // the other drafts out of the cache. sample_row(i): what follows the i-th of the chunk's tokens; asked for
  // in order, each once the one before has been taken.
  template <typename SampleRow>
  void check_drafts(Sequence& sequence, int num_drafts, const SampleRow& sample_row);
  void fail_running(const char* what);
  // There were NaNs among its logits: it ends with an error, and no prompt begins with its blocks any more.
  void fail_invalid(Sequence& sequence);
  // The same for a trunk: what waits for it ends.
  void fail_invalid_trunk(Sequence& trunk);
  void note_prune_times();
  void finish_sequence(SequenceId id, FinishReason reason);
  void report_step(const StepPlan& plan, Clock::time_point started_at);
  template <typename Matches>
  void finish_matching(FinishReason reason, const Matches& matches);
  void count_totals();

  std::shared_ptr<const ModelFile> model_;
  EngineLimits limits_;
  KvDtype default_dtype_;
  EngineObserver& observer_;
  std::vector<int> windows_;  // tokens that layers' queries see, where the context is longer; empty: nowhere
  BlockPool pool_;            // outlives the sequences in scheduler_
  PrefixCache prefixes_;
  Scheduler scheduler_;
  std::unique_ptr<ModelExecutor> executor_;
  std::unordered_map<SequenceId, Sampler> samplers_;
  SequenceId next_id_ = 1;
  std::vector<OutgoingEvent> events_;
  std::vector<std::pair<SequenceId, Settling>> to_settle_;  // of the last step
  int num_step_drafts_ = 0;                                 // of the last step: looked up and checked,
  int num_step_accepted_drafts_ = 0;                        // and of them right
  bool prefix_cache_;
  SwapMeter swap_meter_;
  EngineTotals totals_;
};

}  // namespace kvcrush
