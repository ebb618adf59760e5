// Continuous batching with chunked prefill: each step takes one token of every decoding sequence first, then
// fills the token budget with prefill chunks in the order of admission. Who is admitted next is a matter of
// fair shares (FairQueue). Admission reserves the blocks a prompt will need; when decodes run out of blocks
// the sequence of the lowest priority, among those the one admitted last, gives all of its own back, and is
// swapped in or recomputed later. Samples of one request wait until its trunk has prefilled the prompt and
// fork from it. No I/O, no torch, no clock.
#pragma once

#include <memory>
#include <vector>

#include "engine/scheduler/fair_queue.h"
#include "engine/scheduler/sequence.h"

namespace kvcrush {

struct SchedulerConfig {
  int max_batch_tokens = 512;  // >= max_running_sequences, so that no decode starves
  int max_running_sequences = 64;
};

// Tokens [first_token, first_token + num_tokens) of the sequence run in this step; their cache slots are
// reserved.
struct ScheduledChunk {
  Sequence* sequence = nullptr;
  SequenceId sequence_id = 0;  // finds out whether it still runs
  int first_token = 0;
  int num_tokens = 0;
  int num_logit_rows = 0;         // logits are wanted of its last so many tokens
  int num_drafts = 0;             // of its last tokens: guesses
  bool starts_lookahead = false;  // a lookahead comes next, instead of `settling`
  int num_branches = 0;  // of a lookahead: num_tokens is one of each, all at the position first_token
  Settling settling;     // what is due once the chunk is in
  bool is_lookahead() const { return num_branches > 0; }
};

// A sequence that takes the KV of its group's trunk; its cache has the blocks for it.
struct Fork {
  Sequence* trunk = nullptr;
  Sequence* child = nullptr;
  SequenceId child_id = 0;
};

struct Preemption {
  Sequence* sequence = nullptr;
  int blocks_returned = 0;
  std::vector<BlockId>
      swapped_blocks;  // their content is to be kept, before the step runs; empty: it is recomputed
};

// A sequence whose cache comes back from the host, before the step runs.
struct SwapIn {
  Sequence* sequence = nullptr;
  std::vector<BlockId> blocks;  // as many as were swapped out, in the same order
};

// What tells whether to swap a cache out or to compute it again.
struct SwapCosts {
  int max_blocks = 0;            // that the host has room for; 0: never swap
  double seconds_per_block = 0;  // out and in together
  double seconds_per_token = 0;  // of prefill
};

struct StepPlan {
  std::vector<ScheduledChunk> chunks;
  std::vector<Fork> forks;  // to be carried out before the chunks
  std::vector<Preemption> preemptions;
  std::vector<SwapIn> swap_ins;
  std::vector<Sequence*> prefix_lookups;  // admitted for the first time
  int num_prefill_tokens = 0;
  int num_decode_tokens = 0;
};

class Scheduler {
 public:
  Scheduler(const SchedulerConfig& config, BlockPool& pool, PrefixCache& prefixes);

  void add(std::unique_ptr<Sequence> sequence);
  StepPlan plan();
  // Takes a sequence out, wherever it is; its blocks are free once the caller drops it. Null: not here.
  std::unique_ptr<Sequence> remove(SequenceId id);
  Sequence* find_running(SequenceId id) const;  // null: not running
  Sequence* find(SequenceId id) const;          // running or waiting
  void set_swap_costs(const SwapCosts& costs) { swap_costs_ = costs; }

  const std::vector<std::unique_ptr<Sequence>>& running() const { return running_; }
  const FairQueue& waiting() const { return waiting_; }
  bool idle() const { return running_.empty() && waiting_.empty(); }
  int num_swapped_blocks() const { return num_swapped_blocks_; }

 private:
  void schedule_decodes(StepPlan& plan);
  void schedule_prefills(StepPlan& plan);
  // running_ as it is now, those first that are preempted last.
  const std::vector<Sequence*>& by_rank();
  // Reserves the chunk, preempting others as needed. False: `sequence` itself gave way.
  bool reserve_or_preempt(Sequence& sequence, int num_tokens, StepPlan& plan);
  void schedule_chunk(Sequence& sequence, int num_tokens, StepPlan& plan);
  ScheduledChunk make_chunk(Sequence& sequence, int num_tokens) const;
  int spare_tokens(const StepPlan& plan) const;
  bool has_room_for_lookahead(const Sequence& sequence, const StepPlan& plan) const;
  // Leaves those of the sequence's drafts that are checked beside its newest token, looked up where it has
  // none. Without a preemption, now or of others, and without a boundary.
  int take_drafts(Sequence& sequence, const StepPlan& plan) const;
  // Most of them that get the sequence on as tokens one by one would.
  int most_drafts(const Sequence& sequence, const StepPlan& plan) const;
  bool has_blocks_for_drafts(const Sequence& sequence) const;
  int prefill_tokens_for(const Sequence& sequence, int tokens_left) const;

  // scheduler_admission.cpp
  void admit(StepPlan& plan);
  bool admit_prefill(Sequence& sequence, StepPlan& plan);
  // Admits a waiting child of a trunk that is ready. False: the pool has no room for it.
  bool admit_fork(Sequence& child, StepPlan& plan);
  bool admit_swapped(Sequence& sequence, StepPlan& plan);
  bool has_slot(const Sequence& sequence) const;
  bool has_room(const Sequence& sequence, int blocks_at_hand) const;
  int unclaimed_blocks(const Sequence& sequence) const;
  void start_running(Sequence& sequence);

  // scheduler_preemption.cpp
  // What the chunk's end takes beside its own blocks: shared ones are copied when the sequence is pruned.
  bool reserve_spares(Sequence& sequence, const ScheduledChunk& chunk, StepPlan& plan);
  // Gives up sharing and spares of a sequence that runs alone. False: it had no spares.
  static bool rewrite_in_place(Sequence& sequence);
  Sequence& victim();
  void preempt(Sequence& sequence, StepPlan& plan);
  bool is_worth_swapping(const Sequence& sequence) const;

  SchedulerConfig config_;
  BlockPool& pool_;
  PrefixCache& prefixes_;
  SwapCosts swap_costs_;
  int num_swapped_blocks_ = 0;
  FairQueue waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in the order of admission
  std::vector<Sequence*> by_rank_;
};

}  // namespace kvcrush
