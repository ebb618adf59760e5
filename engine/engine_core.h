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
#include "engine/model/model_runner.h"
#include "engine/sampling/sampler.h"
#include "engine/scheduler/scheduler.h"

namespace kvcrush {

// What a step has for the clients. Held back until ids, blocks and statistics tell the same story: a client
// that hears of an end must not find the request's id or blocks still taken.
struct OutgoingEvent {
  std::shared_ptr<TokenStream> stream;
  StreamEvent event;
  std::string finished_request_id;  // of a FinishEvent; else empty
};

class EngineCore {
 public:
  EngineCore(std::shared_ptr<const ModelFile> model, const EngineConfig& config, const EngineLimits& limits,
             ModelWeights weights, const KvLayout& layout, at::Device device, EngineObserver& observer);

  // One Sequence per sample.
  void add(const EngineRequest& request, const std::shared_ptr<TokenStream>& stream,
           Clock::time_point arrived_at);
  // Finishes matching sequences; none may be left. `index` unset: all samples.
  void finish(const std::string& request_id, std::optional<int> index, FinishReason reason);
  void finish_all(FinishReason reason);
  // Plan, run, sample, apply. Call take_events() next, then prune().
  void step();
  // Prunes the sequences of the last step that are over budget. Comes after publishing: the next token of a
  // sequence does not depend on it, only the one after.
  void prune();

  bool idle() const { return scheduler_.idle(); }
  int num_waiting() const { return static_cast<int>(scheduler_.waiting().size()); }
  // Events since the last call, in order; the caller pushes them.
  std::vector<OutgoingEvent> take_events() { return std::exchange(events_, {}); }
  void update_totals(EngineStats& stats) const;  // everything but `sequences`
  std::vector<SequenceStats> describe_sequences() const;

 private:
  void note_preemptions(const StepPlan& plan);
  void note_scheduled(const StepPlan& plan);
  void advance(const StepPlan& plan);
  void sample(const StepPlan& plan, const at::Tensor& logits);
  void apply(Sequence& sequence, SampleResult sampled);
  void fail_running(const char* what);
  void finish_sequence(SequenceId id, FinishReason reason);
  void report_step(const StepPlan& plan, Clock::time_point started_at) const;
  std::int64_t blocks_without_pruning(const Sequence& sequence) const;
  std::int64_t kv_bytes_saved() const;

  std::shared_ptr<const ModelFile> model_;
  EngineLimits limits_;
  EngineObserver& observer_;
  BlockPool pool_;  // outlives the sequences in scheduler_
  Scheduler scheduler_;
  ModelRunner runner_;
  std::unordered_map<SequenceId, Sampler> samplers_;
  SequenceId next_id_ = 1;
  std::vector<OutgoingEvent> events_;
  std::vector<SequenceId> to_prune_;  // of the last step
};

}  // namespace kvcrush
