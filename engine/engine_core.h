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

// A sequence that has ended but whose client does not know yet: first its id and its blocks must be free
// again, or a client that hears of the end could find them still taken.
struct FinishedSequence {
  std::string request_id;
  std::shared_ptr<TokenStream> stream;
  FinishEvent event;
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
  // Plan, run, prune, sample, apply, publish. Nothing happens when idle.
  void step();

  bool idle() const { return scheduler_.idle(); }
  int num_waiting() const { return static_cast<int>(scheduler_.waiting().size()); }
  // Sequences that ended since the last call. The caller pushes their events.
  std::vector<FinishedSequence> take_finished() { return std::exchange(finished_, {}); }
  EngineStats stats() const;

 private:
  void note_preemptions(const StepPlan& plan);
  void note_scheduled(const StepPlan& plan);
  void advance(const StepPlan& plan);
  void prune(const StepPlan& plan);
  void sample_and_publish(const StepPlan& plan, at::Tensor logits);
  void publish(Sequence& sequence, SampleResult sampled);
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
  std::vector<FinishedSequence> finished_;
};

}  // namespace kvcrush
