// What the calls that run a prompt have in common: id, prompt, how the cache is kept, and what fits.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/request_mapper.h"

namespace kvcrush {

// The prompt of any request; at most one is set.
struct WirePrompt {
  const std::string* text = nullptr;
  const v1::ChatMessages* chat = nullptr;
  const v1::TokenIds* token_ids = nullptr;
};

template <typename Request>
WirePrompt wire_prompt(const Request& request) {
  WirePrompt prompt;
  if (request.has_text()) prompt.text = &request.text();
  if (request.has_chat()) prompt.chat = &request.chat();
  if (request.has_token_ids()) prompt.token_ids = &request.token_ids();
  return prompt;
}

struct Prompt {
  std::string_view field;  // where it came from, for messages
  std::vector<TokenId> token_ids;
};

std::uint64_t random_u64();

// A random id where none is given.
Result<std::string> map_request_id(const std::string& id);
Result<Prompt> map_prompt(const WirePrompt& wire, const MapperContext& context);
// Each in [0, vocab_size).
Result<std::vector<TokenId>> map_token_ids(std::string_view field, const v1::TokenIds& wire, int vocab_size);

// Refuses text that no tokens of a whole context could spell, before it is tokenised: that takes a second for
// 16 MiB.
Status check_text_bytes(std::string_view field, std::size_t num_bytes, const MapperContext& context);

// The tokenizer names the byte offset; the field is ours to name.
Status in_field(std::string_view field, const Status& status);

// One policy per variant, at least one variant. Errors begin with "variants" or "variants[i].".
Result<std::vector<CachePolicy>> map_variants(
    const google::protobuf::RepeatedPtrField<v1::KvCompression>& wire, const MapperContext& context);

// The most tokens that may follow this prompt under each of the policies, at least 1.
Result<int> check_prompt_length(const Prompt& prompt, const std::vector<CachePolicy>& policies,
                                const MapperContext& context);

// Priority and prefix caching; the tenant is not the request's to say.
Status map_scheduling(std::optional<std::int32_t> priority, const v1::PrefixCaching& prefix_cache,
                      EngineRequest& engine);
template <typename Request>
Status map_scheduling(const Request& request, EngineRequest& engine) {
  return map_scheduling(request.has_priority() ? std::optional(request.priority()) : std::nullopt,
                        request.prefix_cache(), engine);
}

// As reports show it, one for each of the request's samples.
std::vector<v1::KvCompression> applied_policies(const EngineRequest& request, const MapperContext& context);

}  // namespace kvcrush
