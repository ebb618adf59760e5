// Continuous batching with chunked prefill: each step takes one token of every decoding sequence first, then
// fills the token budget with prefill chunks, oldest sequence first. Admission reserves the blocks a prompt
// will need; when decodes run out of blocks the youngest sequence gives all of its own back and is recomputed
// later. Samples of one request wait until its trunk has prefilled the prompt and fork from it. No I/O, no
// torch, no clock.
#pragma once

#include <deque>
#include <memory>
#include <vector>

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
};

struct StepPlan {
  std::vector<ScheduledChunk> chunks;
  std::vector<Fork> forks;  // to be carried out before the chunks
  std::vector<Preemption> preemptions;
  int num_prefill_tokens = 0;
  int num_decode_tokens = 0;
};

class Scheduler {
 public:
  Scheduler(const SchedulerConfig& config, BlockPool& pool);

  void add(std::unique_ptr<Sequence> sequence);  // at the end of the waiting queue
  StepPlan plan();
  // Takes a sequence out, wherever it is; its blocks are free once the caller drops it. Null: not here.
  std::unique_ptr<Sequence> remove(SequenceId id);
  Sequence* find_running(SequenceId id) const;  // null: not running

  const std::vector<std::unique_ptr<Sequence>>& running() const { return running_; }
  const std::deque<std::unique_ptr<Sequence>>& waiting() const { return waiting_; }
  bool idle() const { return running_.empty() && waiting_.empty(); }

 private:
  void schedule_decodes(StepPlan& plan);
  void schedule_prefills(StepPlan& plan);
  void admit(StepPlan& plan);
  bool can_admit(const Sequence& sequence) const;
  // Admits a waiting child of a trunk that is ready. False: the pool has no room for it.
  bool admit_fork(Sequence& child, StepPlan& plan);
  // Reserves the chunk, preempting younger sequences as needed. False: `sequence` itself was the youngest and
  // gave way.
  bool reserve_or_preempt(Sequence& sequence, int num_tokens, StepPlan& plan);
  void preempt_youngest(StepPlan& plan);
  void schedule_chunk(Sequence& sequence, int num_tokens, StepPlan& plan);
  // Drafts that may be checked beside the sequence's newest token without a preemption or a boundary.
  int spare_tokens(const StepPlan& plan) const;
  bool has_room_for_lookahead(const Sequence& sequence, const StepPlan& plan) const;
  int drafts_for(const Sequence& sequence, const StepPlan& plan) const;
  int prefill_tokens_for(const Sequence& sequence, int tokens_left) const;

  SchedulerConfig config_;
  BlockPool& pool_;
  std::deque<std::unique_ptr<Sequence>> waiting_;   // ascending id
  std::vector<std::unique_ptr<Sequence>> running_;  // ascending id: oldest first
};

}  // namespace kvcrush
