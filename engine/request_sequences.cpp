#include "engine/request_sequences.h"

#include <algorithm>

#include "engine/core/status.h"

namespace kvcrush {

namespace {

std::vector<TokenId> end_tokens(const SamplingParams& sampling, const std::vector<TokenId>& model_stop_ids) {
  std::vector<TokenId> ids = sampling.stop_token_ids;
  if (!sampling.ignore_eos) ids.insert(ids.end(), model_stop_ids.begin(), model_stop_ids.end());
  return ids;
}

const CachePolicy& policy_of(const EngineRequest& request, int index) {
  return request.cache_policies.size() == 1 ? request.cache_policies.front()
                                            : request.cache_policies[static_cast<std::size_t>(index)];
}

// The float dtype that a sequence prefills in.
KvDtype tail_dtype(const CachePolicy& policy, KvDtype default_dtype) {
  const KvDtype dtype = policy.kv_dtype.value_or(default_dtype);
  return is_quantised(dtype) ? KvDtype::kF16 : dtype;
}

// The dtype in which the full cache is compared, else that of the first sample.
KvDtype trunk_dtype(const EngineRequest& request, KvDtype default_dtype) {
  return tail_dtype(request.compare_to_full ? CachePolicy{} : request.cache_policies.front(), default_dtype);
}

// From a trunk in another dtype it would not become what it is by itself, to the bit.
bool can_fork(const CachePolicy& policy, KvDtype trunk, KvDtype default_dtype) {
  return (!policy.compression || policy.compression->when == PruneWhen::kAfterPrompt) &&
         tail_dtype(policy, default_dtype) == trunk;
}

std::unique_ptr<Sequence> make_sequence(const EngineRequest& request, const CachePolicy& policy,
                                        const SequenceContext& context) {
  const cpu::KvFormat format =
      make_kv_format(policy.kv_dtype.value_or(context.default_dtype), context.model->head_dim);
  const std::vector<int> windows = context.model->windows_within(context.max_context_tokens);
  auto sequence =
      std::make_unique<Sequence>(SequenceCache(*context.pool, context.model->num_layers, format, windows));
  sequence->request_id = request.request_id;
  sequence->tenant = request.tenant;
  sequence->tenant_weight = request.tenant_weight;
  sequence->priority = request.priority;
  sequence->deadline = request.deadline;
  const bool caches = context.prefix_cache && !request.bypass_prefix_cache;
  // How long it may grow decides about the rotation of all its keys, which others cannot share then.
  const bool long_positions = context.model->rope.wants_long_positions(
      static_cast<int>(request.prompt_token_ids.size()) +
      std::max(static_cast<int>(request.continuation_token_ids.size()), request.sampling.max_tokens));
  if (long_positions) sequence->first_rope_row = context.max_context_tokens;
  // Without the cache blocks are shared inside the request alone, and gone with it.
  sequence->prefix.scope = {.salt = (caches ? "t" + request.tenant + '\0' + request.cache_salt
                                            : "r" + std::to_string(context.first_id)) +
                                    (long_positions ? std::string("\0long", 5) : std::string()),
                            .dtype = format.tail,
                            .lasting = caches};
  sequence->prefix.shares = caches;
  sequence->token_ids = request.prompt_token_ids;
  sequence->num_prompt_tokens = sequence->num_tokens();
  sequence->policy = policy;
  sequence->schedule =
      CacheSchedule(policy, format, sequence->num_prompt_tokens, context.model->num_layers, windows);
  if (policy.compression && sequence->num_prompt_tokens > sequence->schedule.least_budget())
    sequence->lookahead.shape =
        lookahead_of(*policy.compression, context.max_context_tokens - sequence->num_prompt_tokens);
  return sequence;
}

// What a prune asks must be computed, not found: the newest queries, or all of them.
void set_lookup(Sequence& sequence, const ObservationNeeds& needs) {
  sequence.prefix.looks_up = sequence.prefix.scope.lasting && !needs.attention_sums;
  sequence.prefix.num_queries_after = std::max(1, needs.num_queries);
}

std::unique_ptr<Sequence> make_trunk(const EngineRequest& request, const SequenceContext& context) {
  CachePolicy every_token;
  every_token.kv_dtype = trunk_dtype(request, context.default_dtype);
  std::unique_ptr<Sequence> trunk = make_sequence(request, every_token, context);
  trunk->kind = SequenceKind::kTrunk;
  trunk->prefix.shares = true;
  set_lookup(*trunk, needs_of_children(request, context.default_dtype));
  // A continuation is taken out again, so that what it left behind must not be gone.
  trunk->schedule =
      CacheSchedule(every_token, trunk->cache.format(), trunk->num_prompt_tokens, context.model->num_layers);
  trunk->index = -1;
  trunk->group = std::make_shared<ForkGroup>();
  trunk->group->trunk = trunk.get();
  if (request.compare_to_full) {
    trunk->group->compares = true;
    trunk->token_ids.insert(trunk->token_ids.end(), request.continuation_token_ids.begin(),
                            request.continuation_token_ids.end());
  }
  return trunk;
}

std::unique_ptr<Sequence> make_sample(const EngineRequest& request, int index,
                                      const SequenceContext& context) {
  std::unique_ptr<Sequence> sequence = make_sequence(request, policy_of(request, index), context);
  sequence->index = index;
  sequence->forkable =
      can_fork(sequence->policy, trunk_dtype(request, context.default_dtype), context.default_dtype);
  sequence->sampling = request.sampling;
  sequence->end_token_ids = end_tokens(request.sampling, *context.model_stop_ids);
  if (request.lookup_tokens > 0) sequence->lookup.emplace(request.lookup_tokens);
  if (!request.continuation_token_ids.empty()) {
    sequence->kind = SequenceKind::kScore;
    sequence->token_ids.insert(sequence->token_ids.end(), request.continuation_token_ids.begin(),
                               request.continuation_token_ids.end());
  }
  set_lookup(*sequence, needs_of(sequence->policy));
  sequence->compression_outcome.enabled = sequence->schedule.prunes() || sequence->schedule.packs();
  sequence->compression_outcome.budget_tokens = sequence->schedule.budget_tokens();
  return sequence;
}

// Ties samples to the trunk where it fits the pool beside the largest of them at its longest: then a trunk
// and one child can always go on, and children come to an end one by one. False: it does not.
bool attach(Sequence& trunk, std::vector<std::unique_ptr<Sequence>>& samples, int num_pool_blocks) {
  const int layers = trunk.cache.num_layers();
  LookaheadShape lookahead;
  for (const auto& sample : samples) {
    if (!sample->forkable) continue;
    lookahead = merge(lookahead, sample->lookahead.shape);
    const int whole =
        sample->num_prompt_tokens + std::max(sample->num_output_tokens(), sample->sampling.max_tokens);
    trunk.child_blocks =
        std::max(trunk.child_blocks, sample->schedule.peak_blocks(whole, /*forked=*/true) + layers);
  }
  trunk.lookahead.shape = lookahead;
  if (trunk.peak_blocks() + trunk.child_blocks + layers > num_pool_blocks) return false;
  for (auto& sample : samples) {
    sample->group = trunk.group;
    sample->forks = sample->forkable;
    trunk.group->num_waiting_children += sample->forks ? 1 : 0;
    ++trunk.group->num_live_children;
  }
  return true;
}

}  // namespace

std::vector<std::unique_ptr<Sequence>> make_sequences(const EngineRequest& request,
                                                      const std::shared_ptr<TokenStream>& stream,
                                                      Clock::time_point arrived_at,
                                                      const SequenceContext& context) {
  std::vector<std::unique_ptr<Sequence>> sequences;
  int num_forkable = 0;
  for (int index = 0; index < request.num_samples; ++index) {
    sequences.push_back(make_sample(request, index, context));
    num_forkable += sequences.back()->forkable ? 1 : 0;
  }
  if (num_forkable > 1 || request.compare_to_full) {
    std::unique_ptr<Sequence> trunk = make_trunk(request, context);
    if (attach(*trunk, sequences, context.pool->num_blocks())) {
      // Those that prefill by themselves come last: they must not stand before children in the queue.
      std::stable_partition(sequences.begin(), sequences.end(),
                            [](const auto& sample) { return sample->forkable; });
      sequences.insert(sequences.begin(), std::move(trunk));
    } else {
      KVCRUSH_CHECK(!request.compare_to_full);  // submit() refuses it
    }
  }
  SequenceId id = context.first_id;
  for (auto& sequence : sequences) {
    sequence->id = id++;
    sequence->stream = stream;
    sequence->arrived_at = arrived_at;
  }
  return sequences;
}

ObservationNeeds needs_of_children(const EngineRequest& request, KvDtype default_dtype) {
  ObservationNeeds needs;
  const KvDtype trunk = trunk_dtype(request, default_dtype);
  for (int index = 0; index < request.num_samples; ++index) {
    const CachePolicy& policy = policy_of(request, index);
    if (can_fork(policy, trunk, default_dtype)) needs = merge(needs, needs_of(policy));
  }
  return needs;
}

bool fits_beside_trunk(const EngineRequest& request, const ModelConfig& model, KvDtype default_dtype,
                       int max_context_tokens, int num_blocks) {
  BlockPool pool(1);  // nothing is taken from it
  const std::vector<TokenId> no_stop_ids;
  const SequenceContext context{.pool = &pool,
                                .model = &model,
                                .model_stop_ids = &no_stop_ids,
                                .default_dtype = default_dtype,
                                .max_context_tokens = max_context_tokens};
  const std::unique_ptr<Sequence> trunk = make_trunk(request, context);
  std::vector<std::unique_ptr<Sequence>> samples;
  samples.reserve(static_cast<std::size_t>(request.num_samples));
  for (int index = 0; index < request.num_samples; ++index)
    samples.push_back(make_sample(request, index, context));
  return attach(*trunk, samples, num_blocks);
}

int max_new_tokens(const CachePolicy& policy, const ModelConfig& model, KvDtype default_dtype,
                   int max_context_tokens, int num_blocks, int num_prompt_tokens) {
  const CacheSchedule schedule(policy,
                               make_kv_format(policy.kv_dtype.value_or(default_dtype), model.head_dim),
                               num_prompt_tokens, model.num_layers, model.windows_within(max_context_tokens));
  // The last token is sampled and never cached: it is counted all the same.
  const auto fits = [&](int num_tokens) {
    return schedule.peak_blocks(num_tokens, /*forked=*/false) <= num_blocks;
  };
  if (fits(max_context_tokens)) return max_context_tokens - num_prompt_tokens;
  int low = 0;  // fits
  int high = max_context_tokens;
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low - num_prompt_tokens;
}

}  // namespace kvcrush
