#include "engine/loader/hf_sentencepiece.h"

#include <charconv>
#include <cstdint>
#include <optional>

#include "engine/core/readable.h"
#include "engine/loader/hf_vocabulary.h"
#include "engine/loader/json_fields.h"

namespace kvcrush {
namespace {

using nlohmann::json;

std::optional<std::int64_t> parse_id(const std::string& text) {
  std::int64_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return id;
}

// {"32000": {"content": ..., "special": ...}, ...}
Status read_decoder_list(const json& list, std::int64_t id_limit, const std::string& source,
                         TokenizerSpec& spec) {
  if (!list.is_object()) return invalid_argument(source + ": field 'added_tokens_decoder' is no object");
  for (const auto& [key, token] : list.items()) {
    const auto id = parse_id(key);
    if (!id) return invalid_argument(source + ": added_tokens_decoder: key " + in_quotes(key) + " is no id");
    const auto index = static_cast<std::size_t>(*id);
    const bool is_piece = *id >= 0 && index < spec.kinds.size();
    // The model file finds its own white space in normalised text, whatever is said here.
    const bool own = is_piece && spec.kinds[index] == TokenKind::kUserDefined;
    KVCRUSH_RETURN_IF_ERROR(place_added_token(*id, token, id_limit, source + ": added_tokens_decoder", spec));
    if (own) spec.added_rules[static_cast<TokenId>(*id)].normalized = true;
  }
  return {};
}

// {"<|user|>": 32010, ...}: tokens that the newer list does not have.
Status read_older_list(const json& list, std::int64_t id_limit, const std::string& source,
                       TokenizerSpec& spec) {
  for (const auto& [text, id] : list.items()) {
    const std::int64_t number = id.is_number_unsigned() ? id.get<std::int64_t>() : -1;
    const auto index = static_cast<std::size_t>(number);
    if (number >= 0 && index < spec.tokens.size() && spec.tokens[index] == text) continue;
    KVCRUSH_RETURN_IF_ERROR(place_token(number, text, TokenKind::kControl, id_limit, source, spec));
  }
  return {};
}

}  // namespace

Status add_hf_settings(const SentencePieceSettings& settings, int vocab_size, TokenizerSpec& spec) {
  JsonFields fields(settings.tokenizer_config, settings.tokenizer_config_path);
  const json* list = fields.find("added_tokens_decoder");
  const std::size_t num_added = (list == nullptr ? 0 : list->size()) + settings.added_tokens.size();
  const std::int64_t limit = token_id_limit(spec.tokens.size() + num_added, vocab_size);
  if (list != nullptr) {
    KVCRUSH_RETURN_IF_ERROR(read_decoder_list(*list, limit, settings.tokenizer_config_path, spec));
  }
  KVCRUSH_RETURN_IF_ERROR(read_older_list(settings.added_tokens, limit, settings.added_tokens_path, spec));
  name_holes(spec);
  spec.scores.resize(spec.tokens.size(), 0.0);  // added tokens are found whole

  if (!fields.flag_or("add_prefix_space", true)) {
    spec.space_prefix = SpacePrefix::kNone;
    spec.strip_first_space = false;
  } else if (spec.space_prefix == SpacePrefix::kAlways && !fields.flag_or("legacy", true)) {
    spec.space_prefix = SpacePrefix::kStartOfText;
  }
  spec.add_bos = spec.model == "llama" && spec.bos_id >= 0;
  spec.add_eos = spec.model == "t5" && spec.eos_id >= 0;
  return fields.status();
}

}  // namespace kvcrush
