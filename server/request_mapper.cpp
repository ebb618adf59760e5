#include "server/request_mapper.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cctype>
#include <random>
#include <string_view>

#include "server/proto_convert.h"

namespace kvcrush {
namespace {

constexpr std::size_t kMaxRequestIdBytes = 128;
constexpr int kMaxStopStrings = 16;
constexpr std::size_t kMaxStopBytes = 256;
constexpr int kMaxSamples = 16;
constexpr int kMaxLogprobs = 20;

std::uint64_t random_u64() {
  thread_local std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

bool is_request_id_char(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '_' || c == ':' || c == '-';
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

// The tokenizer names the byte offset; the field is ours to name.
Status in_field(std::string_view field, const Status& status) {
  return {status.code(), fmt::format("{}: {}", field, status.message())};
}

Result<std::vector<TokenId>> map_token_ids(const v1::TokenIds& wire, int vocab_size) {
  for (int i = 0; i < wire.ids_size(); ++i) {
    if (wire.ids(i) < 0 || wire.ids(i) >= vocab_size) {
      return invalid_argument(
          fmt::format("token_ids.ids[{}] is {}, allowed: [0, vocab_size = {})", i, wire.ids(i), vocab_size));
    }
  }
  return std::vector<TokenId>(wire.ids().begin(), wire.ids().end());
}

struct Prompt {
  std::string_view field;
  std::vector<TokenId> token_ids;
};

Result<Prompt> map_prompt(const v1::GenerateRequest& request, const MapperContext& context) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText: {
      if (request.text().empty()) return invalid_argument("text is empty, allowed: at least one character");
      Result<std::vector<TokenId>> ids = context.tokenizer->encode(request.text());
      if (!ids.ok()) return in_field("text", ids.status());
      return Prompt{"text", std::move(ids).value()};
    }
    case v1::GenerateRequest::kChat: {
      Result<TokenizedPrompt> chat = tokenize_chat(request.chat(), context);
      KVCRUSH_RETURN_IF_ERROR(chat.status());
      return Prompt{"chat", std::move(chat->token_ids)};
    }
    case v1::GenerateRequest::kTokenIds: {
      Result<std::vector<TokenId>> ids = map_token_ids(request.token_ids(), context.tokenizer->vocab_size());
      KVCRUSH_RETURN_IF_ERROR(ids.status());
      return Prompt{"token_ids", std::move(ids).value()};
    }
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return invalid_argument("prompt is missing, allowed: one of text, chat, token_ids");
}

// Returns the most tokens that may follow this prompt, at least 1.
Result<int> check_prompt_length(const Prompt& prompt, const std::optional<CompressionParams>& compression,
                                const MapperContext& context) {
  const auto num_tokens = static_cast<std::int64_t>(prompt.token_ids.size());
  const std::int64_t most = context.limits.max_context_tokens - 1;
  if (num_tokens < 1 || num_tokens > most) {
    return invalid_argument(
        fmt::format("{} is {} tokens long, allowed: [1, {}] (context of {} tokens, one of them for "
                    "output)",
                    prompt.field, num_tokens, most, context.limits.max_context_tokens));
  }
  const int room = context.max_new_tokens(static_cast<int>(num_tokens), compression);
  if (room >= 1) return room;
  return invalid_argument(
      fmt::format("{} is {} tokens long, allowed: what the KV pool can hold ({} tokens of one uncompressed "
                  "sequence, at least one "
                  "of them for output)",
                  prompt.field, num_tokens, context.limits.max_cached_tokens));
}

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

}  // namespace

std::string random_request_id() {
  return fmt::format("{:016x}{:016x}", random_u64(), random_u64());
}

Result<TokenizedPrompt> tokenize_chat(const v1::ChatMessages& chat, const MapperContext& context) {
  if (context.chat_template == nullptr) {
    return Status(StatusCode::kFailedPrecondition, "chat is not available: " + context.no_chat_reason);
  }
  if (chat.messages_size() == 0)
    return invalid_argument("chat.messages is empty, allowed: at least one message");
  std::vector<ChatMessage> messages;
  for (int i = 0; i < chat.messages_size(); ++i) {
    if (chat.messages(i).role().empty()) {
      return invalid_argument(fmt::format(
          "chat.messages[{}].role is empty, allowed: \"system\", \"user\", \"assistant\" or another that "
          "the template accepts",
          i));
    }
    messages.push_back({chat.messages(i).role(), chat.messages(i).content()});
  }
  const TokenizerSpec& spec = context.tokenizer->spec();
  ChatTemplateContext names;
  if (spec.bos_id >= 0) names.bos_token = spec.tokens[static_cast<std::size_t>(spec.bos_id)];
  if (spec.eos_id >= 0) names.eos_token = spec.tokens[static_cast<std::size_t>(spec.eos_id)];
  Result<std::vector<PromptPiece>> pieces = context.chat_template->render(messages, names);
  if (!pieces.ok()) return in_field("chat", pieces.status());
  Result<std::vector<TokenId>> ids = context.tokenizer->encode(std::span<const PromptPiece>(*pieces));
  if (!ids.ok()) return in_field("chat", ids.status());
  TokenizedPrompt prompt{std::move(ids).value(), {}};
  for (const PromptPiece& piece : *pieces) prompt.rendered += piece.text;
  return prompt;
}

Result<MappedRequest> map_generate_request(const v1::GenerateRequest& request, const MapperContext& context) {
  const v1::SamplingParams& sampling = request.sampling();
  MappedRequest mapped;
  EngineRequest& engine = mapped.engine;

  Result<std::string> id = map_request_id(request.request_id());
  KVCRUSH_RETURN_IF_ERROR(id.status());
  engine.request_id = std::move(id).value();
  KVCRUSH_RETURN_IF_ERROR(check_counts(sampling));
  std::vector<std::string> stop;
  KVCRUSH_RETURN_IF_ERROR(map_stop_strings(sampling, stop));
  Result<std::optional<CompressionParams>> compression =
      map_compression(request.has_compression() ? &request.compression() : nullptr, context.defaults.compress,
                      context.defaults.compression);
  KVCRUSH_RETURN_IF_ERROR(compression.status());
  engine.compression = std::move(compression).value();

  Result<Prompt> prompt = map_prompt(request, context);
  KVCRUSH_RETURN_IF_ERROR(prompt.status());
  const Result<int> room = check_prompt_length(*prompt, engine.compression, context);
  KVCRUSH_RETURN_IF_ERROR(room.status());
  engine.prompt_token_ids = std::move(prompt->token_ids);

  copy_sampling(sampling, engine.sampling);
  KVCRUSH_RETURN_IF_ERROR(map_max_tokens(sampling, static_cast<int>(engine.prompt_token_ids.size()), *room,
                                         context.defaults.max_tokens, engine.sampling.max_tokens));
  KVCRUSH_RETURN_IF_ERROR(validate(engine.sampling, context.tokenizer->vocab_size()));
  if (sampling.has_n()) engine.num_samples = sampling.n();
  mapped.text = {std::move(stop), engine.sampling.min_tokens};
  return mapped;
}

}  // namespace kvcrush
