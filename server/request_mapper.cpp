#include "server/request_mapper.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <utility>

#include "server/request_parts.h"

namespace kvcrush {
namespace {

constexpr int kMaxStopStrings = 16;
constexpr std::size_t kMaxStopBytes = 256;
constexpr int kMaxSamples = 16;
constexpr int kMaxLogprobs = 20;

Status map_stop_strings(const v1::SamplingParams& wire, std::vector<std::string>& stop) {
  if (wire.stop_size() > kMaxStopStrings) {
    return invalid_argument(
        fmt::format("sampling.stop has {} strings, allowed: at most {}", wire.stop_size(), kMaxStopStrings));
  }
  for (int i = 0; i < wire.stop_size(); ++i) {
    const std::size_t num_bytes = wire.stop(i).size();
    if (num_bytes < 1 || num_bytes > kMaxStopBytes) {
      return invalid_argument(
          fmt::format("sampling.stop[{}] is {} bytes long, allowed: [1, {}]", i, num_bytes, kMaxStopBytes));
    }
    stop.push_back(wire.stop(i));
  }
  return {};
}

Status map_max_tokens(const v1::SamplingParams& wire, int num_prompt_tokens, int room, int default_tokens,
                      int& out) {
  out = std::min(default_tokens, room);
  if (!wire.has_max_tokens()) return {};
  if (wire.max_tokens() < 1 || wire.max_tokens() > room) {
    return invalid_argument(fmt::format(
        "sampling.max_tokens is {}, allowed: [1, {}] (what context and KV pool leave after {} prompt tokens)",
        wire.max_tokens(), room, num_prompt_tokens));
  }
  out = wire.max_tokens();
  return {};
}

// Everything but max_tokens; ranges of single fields are validate()'s.
void copy_sampling(const v1::SamplingParams& wire, SamplingParams& params) {
  if (wire.has_temperature()) params.temperature = wire.temperature();
  if (wire.has_top_k()) params.top_k = wire.top_k();
  if (wire.has_top_p()) params.top_p = wire.top_p();
  if (wire.has_min_p()) params.min_p = wire.min_p();
  if (wire.has_repetition_penalty()) params.repetition_penalty = wire.repetition_penalty();
  if (wire.has_presence_penalty()) params.presence_penalty = wire.presence_penalty();
  if (wire.has_frequency_penalty()) params.frequency_penalty = wire.frequency_penalty();
  params.seed = wire.has_seed() ? wire.seed() : random_u64();
  if (wire.has_min_tokens()) params.min_tokens = wire.min_tokens();
  params.stop_token_ids.assign(wire.stop_token_ids().begin(), wire.stop_token_ids().end());
  if (wire.has_ignore_eos()) params.ignore_eos = wire.ignore_eos();
  if (wire.has_logprobs()) params.num_logprobs = wire.logprobs();
}

// Fields whose name on the wire is not the engine's, or that only the server knows.
Status check_counts(const v1::SamplingParams& wire) {
  if (wire.has_logprobs() && (wire.logprobs() < 0 || wire.logprobs() > kMaxLogprobs)) {
    return invalid_argument(
        fmt::format("sampling.logprobs is {}, allowed: [0, {}]", wire.logprobs(), kMaxLogprobs));
  }
  if (wire.has_n() && (wire.n() < 1 || wire.n() > kMaxSamples)) {
    return invalid_argument(fmt::format("sampling.n is {}, allowed: [1, {}]", wire.n(), kMaxSamples));
  }
  return {};
}

Status map_speculation(const v1::Speculation& wire, EngineRequest& engine) {
  engine.lookup_tokens = wire.lookup_tokens();
  if (engine.lookup_tokens >= 0 && engine.lookup_tokens <= kMaxLookupTokens) return {};
  return invalid_argument(fmt::format("speculation.lookup_tokens is {}, allowed: [0, {}]",
                                      engine.lookup_tokens, kMaxLookupTokens));
}

// One for all samples, or one sample per variant.
Status map_cache_policies(const v1::GenerateRequest& request, const MapperContext& context,
                          EngineRequest& engine) {
  if (request.variants().empty()) {
    engine.cache_policies = {context.defaults.compression.policy};
    if (!request.has_compression()) return {};
    Result<CachePolicy> policy = map_compression(request.compression(), context.defaults.compression);
    KVCRUSH_RETURN_IF_ERROR(policy.status());
    engine.cache_policies = {std::move(policy).value()};
    return {};
  }
  if (request.has_compression()) {
    return invalid_argument(fmt::format("variants has {} entries beside compression, allowed: one of the two",
                                        request.variants_size()));
  }
  if (engine.num_samples > 1) {
    return invalid_argument(
        fmt::format("variants has {} entries and sampling.n is {}, allowed with variants: 1",
                    request.variants_size(), engine.num_samples));
  }
  Result<std::vector<CachePolicy>> policies = map_variants(request.variants(), context);
  KVCRUSH_RETURN_IF_ERROR(policies.status());
  engine.cache_policies = std::move(policies).value();
  engine.num_samples = request.variants_size();
  return {};
}

}  // namespace

Result<MappedRequest> map_generate_request(const v1::GenerateRequest& request, const MapperContext& context) {
  const v1::SamplingParams& sampling = request.sampling();
  MappedRequest mapped;
  EngineRequest& engine = mapped.engine;

  Result<std::string> id = map_request_id(request.request_id());
  KVCRUSH_RETURN_IF_ERROR(id.status());
  engine.request_id = std::move(id).value();
  KVCRUSH_RETURN_IF_ERROR(map_scheduling(request, engine));
  KVCRUSH_RETURN_IF_ERROR(map_speculation(request.speculation(), engine));
  KVCRUSH_RETURN_IF_ERROR(check_counts(sampling));
  std::vector<std::string> stop;
  KVCRUSH_RETURN_IF_ERROR(map_stop_strings(sampling, stop));
  if (sampling.has_n()) engine.num_samples = sampling.n();
  KVCRUSH_RETURN_IF_ERROR(map_cache_policies(request, context, engine));

  Result<Prompt> prompt = map_prompt(wire_prompt(request), context);
  KVCRUSH_RETURN_IF_ERROR(prompt.status());
  const Result<int> room = check_prompt_length(*prompt, engine.cache_policies, context);
  KVCRUSH_RETURN_IF_ERROR(room.status());
  engine.prompt_token_ids = std::move(prompt->token_ids);

  copy_sampling(sampling, engine.sampling);
  KVCRUSH_RETURN_IF_ERROR(map_max_tokens(sampling, static_cast<int>(engine.prompt_token_ids.size()), *room,
                                         context.defaults.max_tokens, engine.sampling.max_tokens));
  KVCRUSH_RETURN_IF_ERROR(validate(engine.sampling, context.tokenizer->vocab_size()));
  mapped.applied = applied_policies(engine, context);
  mapped.text = {std::move(stop), engine.sampling.min_tokens, request.has_chat()};
  return mapped;
}

}  // namespace kvcrush
