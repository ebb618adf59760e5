#include "server/request_parts.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cctype>
#include <random>
#include <utility>

#include "server/compression_fields.h"

namespace kvcrush {
namespace {

constexpr std::size_t kMaxRequestIdBytes = 128;
constexpr int kMaxVariants = 256;
constexpr int kMaxPriority = 4;
constexpr std::size_t kMaxSaltBytes = 256;
constexpr std::string_view kCompressionField = "compression.";

bool is_request_id_char(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '_' || c == ':' || c == '-';
}

// "compression.policy is 9" -> "variants[3].policy is 9".
Status in_variant(int index, const Status& status) {
  std::string_view message = status.message();
  if (message.starts_with(kCompressionField)) message.remove_prefix(kCompressionField.size());
  return {status.code(), fmt::format("variants[{}].{}", index, message)};
}

}  // namespace

std::uint64_t random_u64() {
  thread_local std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

std::string random_request_id() {
  return fmt::format("{:016x}{:016x}", random_u64(), random_u64());
}

Result<std::string> map_request_id(const std::string& id) {
  if (id.empty()) return random_request_id();
  if (id.size() > kMaxRequestIdBytes) {
    return invalid_argument(
        fmt::format("request_id is {} characters long, allowed: at most {} of [A-Za-z0-9._:-]", id.size(),
                    kMaxRequestIdBytes));
  }
  const auto bad = std::find_if_not(id.begin(), id.end(), is_request_id_char);
  if (bad == id.end()) return id;
  return invalid_argument(
      fmt::format("request_id has a character of code {} at offset {}, allowed: [A-Za-z0-9._:-]",
                  static_cast<int>(static_cast<unsigned char>(*bad)), bad - id.begin()));
}

Status check_text_bytes(std::string_view field, std::size_t num_bytes, const MapperContext& context) {
  const std::size_t longest = context.tokenizer->longest_token_bytes();
  const std::size_t most = static_cast<std::size_t>(context.limits.max_context_tokens) * longest;
  if (num_bytes <= most) return {};
  return invalid_argument(
      fmt::format("{} is {} bytes long, allowed: at most {} (context of {} tokens, the longest of which has "
                  "{} bytes)",
                  field, num_bytes, most, context.limits.max_context_tokens, longest));
}

Status in_field(std::string_view field, const Status& status) {
  return {status.code(), fmt::format("{}: {}", field, status.message())};
}

Result<std::vector<TokenId>> map_token_ids(std::string_view field, const v1::TokenIds& wire, int vocab_size) {
  for (int i = 0; i < wire.ids_size(); ++i) {
    if (wire.ids(i) < 0 || wire.ids(i) >= vocab_size) {
      return invalid_argument(
          fmt::format("{}.ids[{}] is {}, allowed: [0, vocab_size = {})", field, i, wire.ids(i), vocab_size));
    }
  }
  return std::vector<TokenId>(wire.ids().begin(), wire.ids().end());
}

Result<Prompt> map_prompt(const WirePrompt& wire, const MapperContext& context) {
  if (wire.text != nullptr) {
    if (wire.text->empty()) return invalid_argument("text is empty, allowed: at least one character");
    KVCRUSH_RETURN_IF_ERROR(check_text_bytes("text", wire.text->size(), context));
    Result<std::vector<TokenId>> ids = context.tokenizer->encode(*wire.text);
    if (!ids.ok()) return in_field("text", ids.status());
    return Prompt{"text", std::move(ids).value()};
  }
  if (wire.chat != nullptr) {
    Result<TokenizedPrompt> chat = tokenize_chat(*wire.chat, context);
    KVCRUSH_RETURN_IF_ERROR(chat.status());
    return Prompt{"chat", std::move(chat->token_ids)};
  }
  if (wire.token_ids != nullptr) {
    Result<std::vector<TokenId>> ids =
        map_token_ids("token_ids", *wire.token_ids, context.tokenizer->vocab_size());
    KVCRUSH_RETURN_IF_ERROR(ids.status());
    return Prompt{"token_ids", std::move(ids).value()};
  }
  return invalid_argument("prompt is missing, allowed: one of text, chat, token_ids");
}

Result<std::vector<CachePolicy>> map_variants(
    const google::protobuf::RepeatedPtrField<v1::KvCompression>& wire, const MapperContext& context) {
  if (wire.size() > kMaxVariants) {
    return invalid_argument(
        fmt::format("variants has {} entries, allowed: at most {}", wire.size(), kMaxVariants));
  }
  std::vector<CachePolicy> policies;
  for (int i = 0; i < wire.size(); ++i) {
    Result<CachePolicy> policy = map_compression(wire[i], context.defaults.compression);
    if (!policy.ok()) return in_variant(i, policy.status());
    policies.push_back(std::move(policy).value());
  }
  return policies;
}

Result<int> check_prompt_length(const Prompt& prompt, const std::vector<CachePolicy>& policies,
                                const MapperContext& context) {
  const auto num_tokens = static_cast<std::int64_t>(prompt.token_ids.size());
  const std::int64_t most = context.limits.max_context_tokens - 1;
  if (num_tokens < 1 || num_tokens > most) {
    return invalid_argument(
        fmt::format("{} is {} tokens long, allowed: [1, {}] (context of {} tokens, one of them for "
                    "output)",
                    prompt.field, num_tokens, most, context.limits.max_context_tokens));
  }
  int room = context.limits.max_context_tokens;
  for (const CachePolicy& policy : policies) {
    room = std::min(room, context.max_new_tokens(static_cast<int>(num_tokens), policy));
  }
  if (room >= 1) return room;
  return invalid_argument(
      fmt::format("{} is {} tokens long, allowed: what the KV pool can hold ({} tokens of one uncompressed "
                  "sequence, at least one of them for output)",
                  prompt.field, num_tokens, context.limits.max_cached_tokens));
}

Status map_scheduling(std::optional<std::int32_t> priority, const v1::PrefixCaching& prefix_cache,
                      EngineRequest& engine) {
  engine.priority = priority.value_or(0);
  if (engine.priority < -kMaxPriority || engine.priority > kMaxPriority) {
    return invalid_argument(
        fmt::format("priority is {}, allowed: [{}, {}]", engine.priority, -kMaxPriority, kMaxPriority));
  }
  if (prefix_cache.salt().size() > kMaxSaltBytes) {
    return invalid_argument(fmt::format("prefix_cache.salt is {} bytes long, allowed: at most {}",
                                        prefix_cache.salt().size(), kMaxSaltBytes));
  }
  engine.cache_salt = prefix_cache.salt();
  engine.bypass_prefix_cache = prefix_cache.bypass();
  return {};
}

std::vector<v1::KvCompression> applied_policies(const EngineRequest& request, const MapperContext& context) {
  std::vector<v1::KvCompression> applied;
  for (const CachePolicy& policy : request.cache_policies) {
    applied.push_back(to_proto(policy, context.defaults.compression.engine_dtype));
  }
  applied.resize(static_cast<std::size_t>(request.num_samples), applied.front());
  return applied;
}

}  // namespace kvcrush
