// One sample of one request as the scheduler sees it. Owned and touched by the engine loop alone.
#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/core/token_stream.h"
#include "engine/core/types.h"
#include "engine/kv_cache/sequence_cache.h"
#include "engine/sampling/params.h"
#include "engine/scheduler/cache_schedule.h"
#include "engine/scheduler/lookahead.h"
#include "engine/scheduler/prompt_lookup.h"

namespace kvcrush {

using Clock = std::chrono::steady_clock;

struct Sequence;

// What a request's samples share: one prefill (by a trunk sequence, which samples nothing), and what scores
// are compared with.
struct ForkGroup {
  Sequence* trunk = nullptr;     // null once it is gone
  bool ready = false;            // the trunk holds the prompt's KV, and prompt_logits are set
  int num_waiting_children = 0;  // that still want to fork from it
  int num_live_children = 0;
  int num_preemptions = 0;            // of all of them together
  std::vector<float> prompt_logits;   // [vocab] after the prompt's last token
  Lookahead lookahead;                // what the trunk ran over beyond the prompt, for its children
  bool compares = false;              // scores are compared with the trunk's
  std::vector<float> full_log_probs;  // [continuation tokens, vocab], where they are
};

// Log-probabilities of a continuation, as far as it has been computed.
struct ScoreProgress {
  std::vector<float> logprobs;
  std::vector<float> kl_divergences;
  std::vector<bool> top1_agrees;
};

enum class SequenceKind {
  kSample,  // generates tokens
  kScore,   // runs over given tokens: the continuation behind the prompt
  kTrunk,   // prefills for others, and runs over the continuation where scores are compared
};

// How a sequence's prompt meets the prefix cache.
struct PrefixUse {
  PrefixScope scope;
  bool looks_up = false;              // it may begin with blocks of others
  bool shares = false;                // others may begin with its blocks
  int num_queries_after = 1;          // tokens before the first boundary that it must compute itself
  std::optional<int> num_hit_tokens;  // when it was first admitted
};

struct Sequence {
  SequenceId id = 0;  // ascending in order of arrival
  std::string request_id;
  std::string tenant;        // whose share of the server it takes
  double tenant_weight = 1;  // > 0
  int priority = 0;          // among the tenant's own: each step doubles its part
  int index = 0;
  std::vector<TokenId> token_ids;  // prompt, then output
  int num_prompt_tokens = 0;
  int first_rope_row =
      0;  // of position 0 in the RoPE table: sequences that may grow long have their own rows
  SamplingParams sampling;
  std::vector<TokenId> end_token_ids;  // end tokens of model and request in force
  SequenceKind kind = SequenceKind::kSample;
  CachePolicy policy;
  CacheSchedule schedule;
  std::shared_ptr<TokenStream> stream;
  std::shared_ptr<ForkGroup> group;  // null: the only sample, and nothing to compare with
  bool forkable = false;             // its KV at the prompt's end comes from the trunk's, while there is one
  bool forks = false;                // waits for the group's trunk to do so
  int child_blocks = 0;              // of a trunk: peak blocks of its largest child
  Lookahead lookahead;
  std::vector<TokenId>
      drafts;  // guesses at what follows token_ids: checked in one chunk with the newest token
  std::optional<PromptLookup> lookup;  // where drafts come from when there are none; unset: not asked for
  bool drafts_are_looked_up = false;   // else they come from the lookahead
  int num_drafted_tokens = 0;          // that were looked up and checked,
  int num_accepted_drafts = 0;         // and of them right
  ScoreProgress score;

  int num_computed_tokens =
      0;  // logical length whose K and V were computed (some may have been evicted since)
  SequenceCache cache;
  // What the cache was when it was swapped out to the host; empty: it was not.
  std::vector<SequenceCache::LayerShape> swapped_shapes;  // [num_layers]
  int num_preemptions = 0;
  int num_swaps = 0;  // of those, the ones that kept the cache
  PrefixUse prefix;
  CompressionOutcome compression_outcome;

  Clock::time_point arrived_at;
  std::optional<Clock::time_point> deadline;
  std::optional<Clock::time_point> first_scheduled_at;
  std::optional<Clock::time_point> first_token_at;
  Clock::time_point last_token_at;

  explicit Sequence(SequenceCache sequence_cache) : cache(std::move(sequence_cache)) {}

  int num_tokens() const { return static_cast<int>(token_ids.size()); }
  int num_output_tokens() const { return num_tokens() - num_prompt_tokens; }
  // Nothing follows the last token of a continuation: it is scored, not computed.
  int num_tokens_to_compute() const {
    return kind == SequenceKind::kSample || num_output_tokens() == 0 ? num_tokens() : num_tokens() - 1;
  }
  int num_uncomputed_tokens() const {
    return lookahead.running() ? 1 : num_tokens_to_compute() - num_computed_tokens;
  }
  TokenId token_at(int position) const {
    if (position < num_tokens()) return token_ids[static_cast<std::size_t>(position)];
    return drafts[static_cast<std::size_t>(position - num_tokens())];
  }
  // Its group's trunk has yet to show what it forks from, or is compared with.
  bool waits_for_trunk() const {
    return kind != SequenceKind::kTrunk && group != nullptr && group->trunk != nullptr && !group->ready;
  }
  bool is_swapped() const { return !swapped_shapes.empty(); }
  int num_swapped_blocks() const {
    int blocks = 0;
    for (const auto& shape : swapped_shapes)
      blocks += blocks_for(cache.format(), shape.num_packed, shape.num_tail);
    return blocks;
  }
  bool is_decoding() const {
    return lookahead.running() ||
           (kind == SequenceKind::kSample && num_uncomputed_tokens() == 1 && num_output_tokens() > 0);
  }
  // Most tokens that it may find in the prefix cache: logits are wanted of what comes after, and queries of
  // what is observed before a prune.
  int max_prefix_tokens() const {
    if (!prefix.looks_up) return 0;
    const bool goes_past_prompt = kind == SequenceKind::kSample && !schedule.prunes() && !schedule.packs();
    const int end = goes_past_prompt ? num_tokens() : schedule.tokens_to_boundary(0, cache);
    return std::max(0, end - prefix.num_queries_after);
  }
  // Its output is shared before it ends, while windows have not passed it: never to be rewritten.
  bool shares_answer() const {
    return prefix.shares && kind == SequenceKind::kSample && !schedule.prunes() && !schedule.packs();
  }
  // What others may begin with, once `num_computed_tokens` are in.
  std::span<const TokenId> shareable_tokens(int num_computed) const {
    return {token_ids.data(), static_cast<std::size_t>(std::min(num_computed, num_tokens()))};
  }
  // Those that are preempted again and again come to stand before all others. Samples of one request stay
  // together.
  int preemption_rank() const {
    constexpr int kPreemptionsPerStep = 4;
    return priority + (group == nullptr ? num_preemptions : group->num_preemptions) / kPreemptionsPerStep;
  }
  // Rows of logits wanted of a chunk that ends before `end`: of the newest known token and the drafts after
  // it, or of every token that predicts one of the continuation.
  int num_logit_rows(int first_token, int end) const {
    if (kind == SequenceKind::kSample) return std::max(0, end - num_tokens() + 1);
    return std::max(0, end - std::max(first_token, num_prompt_tokens - 1));
  }
  // Blocks it will hold at most before it samples its next token. A trunk's schedule knows of no lookahead.
  int peak_blocks() const {
    const int tokens = kind == SequenceKind::kTrunk
                           ? std::max(num_tokens(), num_prompt_tokens + lookahead.shape.total())
                           : num_tokens();
    return schedule.peak_blocks(tokens, forks);
  }
};

}  // namespace kvcrush
