#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>

#include "server/request_mapper.h"
#include "server/request_parts.h"

namespace kvcrush {
namespace {

constexpr int kMinContinuationTokens = 2;

struct Continuation {
  std::string_view field;
  std::vector<TokenId> token_ids;
};

Result<Continuation> map_continuation(const v1::ScoreRequest& request, const MapperContext& context) {
  const Tokenizer& tokenizer = *context.tokenizer;
  switch (request.continuation_case()) {
    case v1::ScoreRequest::kContinuationText: {
      EncodeOptions options;
      options.add_special_tokens = false;
      KVCRUSH_RETURN_IF_ERROR(
          check_text_bytes("continuation_text", request.continuation_text().size(), context));
      Result<std::vector<TokenId>> ids = tokenizer.encode(request.continuation_text(), options);
      if (!ids.ok()) return in_field("continuation_text", ids.status());
      return Continuation{"continuation_text", std::move(ids).value()};
    }
    case v1::ScoreRequest::kContinuationTokenIds: {
      Result<std::vector<TokenId>> ids =
          map_token_ids("continuation_token_ids", request.continuation_token_ids(), tokenizer.vocab_size());
      KVCRUSH_RETURN_IF_ERROR(ids.status());
      return Continuation{"continuation_token_ids", std::move(ids).value()};
    }
    case v1::ScoreRequest::CONTINUATION_NOT_SET:
      break;
  }
  return invalid_argument(
      "continuation is missing, allowed: one of continuation_text, continuation_token_ids");
}

// `room`: the most tokens that context and pool leave.
Status check_continuation_length(const Continuation& continuation, int num_prompt_tokens, int room) {
  const auto num_tokens = static_cast<std::int64_t>(continuation.token_ids.size());
  if (num_tokens < kMinContinuationTokens) {
    return invalid_argument(fmt::format("{} is {} tokens long, allowed: at least {}", continuation.field,
                                        num_tokens, kMinContinuationTokens));
  }
  if (num_tokens <= room) return {};
  return invalid_argument(fmt::format(
      "{} is {} tokens long, allowed: at most {} (what context and KV pool leave after {} prompt tokens)",
      continuation.field, num_tokens, room, num_prompt_tokens));
}

Result<bool> map_comparison(const v1::ScoreRequest& request, std::size_t num_tokens) {
  const bool short_enough = num_tokens <= static_cast<std::size_t>(kMaxComparedTokens);
  if (!request.has_compare_to_full()) return short_enough;
  if (!request.compare_to_full() || short_enough) return request.compare_to_full();
  return invalid_argument(
      fmt::format("compare_to_full is true with a continuation of {} tokens, allowed: at most {} tokens, or "
                  "compare_to_full false",
                  num_tokens, kMaxComparedTokens));
}

}  // namespace

Result<MappedRequest> map_score_request(const v1::ScoreRequest& request, const MapperContext& context) {
  MappedRequest mapped;
  EngineRequest& engine = mapped.engine;
  Result<std::string> id = map_request_id(request.request_id());
  KVCRUSH_RETURN_IF_ERROR(id.status());
  engine.request_id = std::move(id).value();
  KVCRUSH_RETURN_IF_ERROR(map_scheduling(request, engine));
  engine.cache_policies = {context.defaults.compression.policy};
  if (!request.variants().empty()) {
    Result<std::vector<CachePolicy>> policies = map_variants(request.variants(), context);
    KVCRUSH_RETURN_IF_ERROR(policies.status());
    engine.cache_policies = std::move(policies).value();
  }
  engine.num_samples = static_cast<int>(engine.cache_policies.size());

  Result<Continuation> continuation = map_continuation(request, context);
  KVCRUSH_RETURN_IF_ERROR(continuation.status());
  Result<Prompt> prompt = map_prompt(wire_prompt(request), context);
  KVCRUSH_RETURN_IF_ERROR(prompt.status());
  const Result<int> room = check_prompt_length(*prompt, engine.cache_policies, context);
  KVCRUSH_RETURN_IF_ERROR(room.status());
  const auto num_prompt_tokens = static_cast<int>(prompt->token_ids.size());
  KVCRUSH_RETURN_IF_ERROR(
      check_continuation_length(*continuation, num_prompt_tokens,
                                std::min(*room, context.limits.max_context_tokens - num_prompt_tokens)));
  const Result<bool> compare = map_comparison(request, continuation->token_ids.size());
  KVCRUSH_RETURN_IF_ERROR(compare.status());
  engine.compare_to_full = *compare;
  engine.sampling.max_tokens = static_cast<int>(continuation->token_ids.size());
  engine.prompt_token_ids = std::move(prompt->token_ids);
  engine.continuation_token_ids = std::move(continuation->token_ids);
  mapped.applied = applied_policies(engine, context);
  return mapped;
}

}  // namespace kvcrush
