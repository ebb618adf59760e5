#include <spdlog/fmt/fmt.h>

#include <vector>

#include "server/compression_fields.h"
#include "server/inference_service.h"

namespace kvcrush {
namespace {

// Answers that a small request could otherwise make a hundred times larger than itself.
constexpr std::size_t kMaxAnsweredTokens = std::size_t{1} << 20;
constexpr std::size_t kMaxAnsweredBytes = std::size_t{16} << 20;

Result<std::vector<TokenId>> tokenize_input(const v1::TokenizeRequest& request, const MapperContext& context,
                                            v1::TokenizeResponse& response) {
  switch (request.input_case()) {
    case v1::TokenizeRequest::kText: {
      EncodeOptions options;
      if (request.has_add_special_tokens()) options.add_special_tokens = request.add_special_tokens();
      Result<std::vector<TokenId>> ids = context.tokenizer->encode(request.text(), options);
      if (!ids.ok()) return Status(ids.status().code(), "text: " + ids.status().message());
      return ids;
    }
    case v1::TokenizeRequest::kChat: {
      if (request.has_add_special_tokens() && request.add_special_tokens()) {
        return invalid_argument(
            "add_special_tokens is true, allowed with chat: false (the template adds its own)");
      }
      Result<TokenizedPrompt> chat = tokenize_chat(request.chat(), context);
      KVCRUSH_RETURN_IF_ERROR(chat.status());
      response.set_rendered_prompt(std::move(chat->rendered));
      return std::move(chat->token_ids);
    }
    case v1::TokenizeRequest::INPUT_NOT_SET:
      break;
  }
  return invalid_argument("input is missing, allowed: one of text, chat");
}

}  // namespace

Status tokenize(const v1::TokenizeRequest& request, const MapperContext& context,
                v1::TokenizeResponse& response) {
  const Result<std::vector<TokenId>> ids = tokenize_input(request, context, response);
  KVCRUSH_RETURN_IF_ERROR(ids.status());
  if (ids->size() > kMaxAnsweredTokens) {
    return invalid_argument(fmt::format("{} is {} tokens long, allowed: at most {}",
                                        request.has_chat() ? "chat" : "text", ids->size(),
                                        kMaxAnsweredTokens));
  }
  for (const TokenId id : *ids) {
    response.add_token_ids(id);
    const std::string_view bytes = context.tokenizer->token_bytes(id);
    response.add_tokens(bytes.data(), bytes.size());
  }
  return {};
}

Status detokenize(const v1::DetokenizeRequest& request, const Tokenizer& tokenizer,
                  v1::DetokenizeResponse& response) {
  for (int i = 0; i < request.token_ids_size(); ++i) {
    if (request.token_ids(i) < 0 || request.token_ids(i) >= tokenizer.vocab_size()) {
      return invalid_argument(fmt::format("token_ids[{}] is {}, allowed: [0, vocab_size = {})", i,
                                          request.token_ids(i), tokenizer.vocab_size()));
    }
  }
  std::size_t num_bytes = 0;
  for (const TokenId id : request.token_ids()) num_bytes += tokenizer.token_bytes(id).size();
  if (num_bytes > kMaxAnsweredBytes) {
    return invalid_argument(
        fmt::format("token_ids are {} bytes of text, allowed: at most {}", num_bytes, kMaxAnsweredBytes));
  }
  const std::vector<TokenId> ids(request.token_ids().begin(), request.token_ids().end());
  response.set_text(replace_broken_utf8(tokenizer.decode(ids, request.skip_special_tokens())));
  return {};
}

void describe_model(const ServingModel& model, const ServerConfig& config,
                    v1::GetModelInfoResponse& response) {
  const LoadedModel& loaded = model.loaded;
  const EngineLimits& limits = model.mapper.limits;
  const TokenizerSpec& spec = loaded.tokenizer->spec();
  response.set_model_name(loaded.name);
  response.set_architecture(loaded.config.architecture);
  response.set_server_version(KVCRUSH_VERSION);
  response.set_max_context_tokens(limits.max_context_tokens);
  response.set_vocab_size(loaded.tokenizer->vocab_size());
  response.set_num_layers(loaded.config.num_layers);
  response.set_num_heads(loaded.config.num_heads);
  response.set_num_kv_heads(loaded.config.num_kv_heads);
  response.set_head_dim(loaded.config.head_dim);
  response.set_num_parameters(static_cast<std::int64_t>(loaded.num_parameters));
  response.set_weight_dtype(loaded.weight_dtype);
  response.set_kv_dtype(config.engine.kv_dtype);
  response.set_block_size_tokens(limits.block_size_tokens);
  response.set_block_bytes(limits.block_bytes);
  response.set_num_blocks(limits.num_blocks);
  response.set_bos_token_id(spec.bos_id);
  response.mutable_stop_token_ids()->Assign(spec.stop_ids.begin(), spec.stop_ids.end());
  if (loaded.chat_template != nullptr) {
    response.set_chat_template(replace_broken_utf8(loaded.chat_template_source));
    response.set_chat_takes_system(loaded.chat_abilities.system);
    response.set_chat_takes_tools(loaded.chat_abilities.tools);
  }
  const CompressionDefaults& compression = model.mapper.defaults.compression;
  *response.mutable_default_compression() = to_proto(compression.policy, compression.engine_dtype);
  response.set_default_max_tokens(config.default_max_tokens);
  response.set_device(config.engine.device);
}

void describe_stats(const EngineStats& stats, const MetricTotals& totals, v1::GetStatsResponse& response) {
  response.set_requests_running(stats.num_running);
  response.set_requests_waiting(stats.num_waiting);
  response.set_blocks_used(stats.blocks_used);
  response.set_blocks_total(stats.blocks_total);
  response.set_kv_bytes_used(stats.kv_bytes_used);
  response.set_kv_bytes_saved(stats.kv_bytes_saved);
  response.set_queue_tokens(stats.num_waiting_tokens);
  response.set_prefix_cache_blocks(stats.prefix_cache_blocks);
  response.set_prefix_queried_tokens(totals.prefix_queried_tokens);
  response.set_prefix_hit_tokens(totals.prefix_hit_tokens);
  response.set_swap_bytes_used(stats.swap_bytes_used);
  response.set_prompt_tokens(totals.prompt_tokens);
  response.set_generation_tokens(totals.generation_tokens);
  response.set_preemptions(totals.preemptions);
  response.set_tokens_evicted(totals.tokens_evicted);
  response.set_blocks_freed_by_pruning(totals.blocks_freed_by_pruning);
  for (const SequenceStats& sequence : stats.sequences) {
    v1::RunningRequest& out = *response.add_requests();
    out.set_request_id(sequence.request_id);
    out.set_index(sequence.index);
    out.set_state(std::string(sequence.state));
    out.set_prompt_tokens(sequence.prompt_tokens);
    out.set_completion_tokens(sequence.completion_tokens);
    out.set_blocks(sequence.blocks);
    out.set_age_ms(sequence.age_ms);
    out.set_tenant(sequence.tenant);
    out.set_priority(sequence.priority);
  }
}

}  // namespace kvcrush
