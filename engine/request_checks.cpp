#include "engine/request_checks.h"

#include <algorithm>
#include <string>

#include "engine/core/queue_bound.h"
#include "engine/core/status.h"
#include "engine/request_sequences.h"

namespace kvcrush {

Status check_room(const EngineRequest& request, const RoomContext& context) {
  const auto num_prompt_tokens = static_cast<int>(request.prompt_token_ids.size());
  const bool scores = !request.continuation_token_ids.empty();
  const int wanted =
      scores ? static_cast<int>(request.continuation_token_ids.size()) : request.sampling.max_tokens;
  const auto num_blocks = static_cast<int>(context.limits.num_blocks);
  for (const CachePolicy& policy : request.cache_policies) {
    if (request.lookup_tokens > 0 && needs_of(policy).attention_sums)
      return invalid_argument(
          "speculation.lookup_tokens is " + std::to_string(request.lookup_tokens) +
          " and compression.policy is h2o; allowed with it: 0, for its sums of attention cannot "
          "forget a draft that was wrong");
    if (context.on_gpu && policy.compression && policy.compression->granularity == Granularity::kBlock)
      return invalid_argument("granularity is block; allowed on a GPU: token");
    const int room = max_new_tokens(policy, context.model, context.default_dtype,
                                    context.limits.max_context_tokens, num_blocks, num_prompt_tokens);
    if (wanted <= room) continue;
    return invalid_argument((scores ? "continuation is " : "sampling.max_tokens is ") +
                            std::to_string(wanted) + (scores ? " tokens long" : "") + " after a prompt of " +
                            std::to_string(num_prompt_tokens) + " tokens; allowed: at most " +
                            std::to_string(std::max(room, 0)) + ", what the context and the KV pool leave");
  }
  if (!request.compare_to_full) return {};
  KVCRUSH_CHECK(scores && wanted <= kMaxComparedTokens);
  if (fits_beside_trunk(request, context.model, context.default_dtype, context.limits.max_context_tokens,
                        num_blocks))
    return {};
  return invalid_argument("compare_to_full is true; allowed: only where the KV pool holds the prompt of " +
                          std::to_string(num_prompt_tokens) + " tokens twice, in full and compressed");
}

namespace {

// Waiting would not help.
Status check_samples(const EngineRequest& request, int max_waiting) {
  if (request.num_samples <= max_waiting) return {};
  const std::string samples = std::to_string(request.num_samples);
  const bool by_policy = request.cache_policies.size() > 1;
  return invalid_argument((by_policy ? "variants has " + samples + " entries" : "sampling.n is " + samples) +
                          "; allowed: at most " + std::to_string(max_waiting) +
                          ", as many samples as may wait (--max-waiting)");
}

}  // namespace

Status check_queue(const EngineRequest& request, const EngineConfig& config, const QueueLoad& queued,
                   std::chrono::steady_clock::time_point now) {
  KVCRUSH_RETURN_IF_ERROR(check_samples(request, config.max_waiting_sequences));
  if (request.deadline && *request.deadline <= now)
    return {StatusCode::kDeadlineExceeded, "the deadline had passed before the request was queued"};
  if (queued.samples + request.num_samples > config.max_waiting_sequences) {
    return {StatusCode::kResourceExhausted, "the queue holds " + std::to_string(queued.samples) +
                                                " of at most " +
                                                std::to_string(config.max_waiting_sequences) + " " +
                                                std::string(kWaitingSequences) + "; try again later"};
  }
  const auto num_tokens = static_cast<std::int64_t>(request.prompt_token_ids.size());
  if (queued.tokens > 0 && queued.tokens + num_tokens > config.max_waiting_tokens) {
    return {StatusCode::kResourceExhausted,
            "the queue holds " + std::to_string(queued.tokens) + " of at most " +
                std::to_string(config.max_waiting_tokens) + " " + std::string(kWaitingPromptTokens) +
                ", and this prompt has " + std::to_string(num_tokens) + "; try again later"};
  }
  return {};
}

}  // namespace kvcrush
