#include "engine/loader/hf_vocabulary.h"

#include <algorithm>

#include "engine/core/readable.h"
#include "engine/loader/json_fields.h"

namespace kvcrush {

std::int64_t token_id_limit(std::size_t num_tokens, int vocab_size) {
  constexpr std::int64_t kMaxHoles = 1 << 16;
  return std::min<std::int64_t>(vocab_size, static_cast<std::int64_t>(num_tokens) + kMaxHoles);
}

Status place_token(std::int64_t id, const std::string& token, TokenKind kind, std::int64_t id_limit,
                   const std::string& source, TokenizerSpec& spec) {
  if (id < 0 || id >= id_limit) {
    return invalid_argument(source + ": token " + in_quotes(token) + " has id " + std::to_string(id) +
                            "; allowed: 0 to " + std::to_string(id_limit - 1));
  }
  const auto index = static_cast<std::size_t>(id);
  if (index >= spec.tokens.size()) {
    spec.tokens.resize(index + 1);
    spec.kinds.resize(index + 1, TokenKind::kUnused);
  }
  if (spec.kinds[index] != TokenKind::kUnused && spec.tokens[index] != token) {
    return invalid_argument(source + ": tokens " + in_quotes(spec.tokens[index]) + " and " +
                            in_quotes(token) + " both have id " + std::to_string(id));
  }
  spec.tokens[index] = token;
  spec.kinds[index] = kind;
  return {};
}

Status place_added_token(std::int64_t id, const nlohmann::json& token, std::int64_t id_limit,
                         const std::string& source, TokenizerSpec& spec) {
  JsonFields fields(token, source);
  const std::string content = fields.text_or("content", "");
  const bool special = fields.flag_or("special", false);
  AddedTokenRules rules;
  rules.strip_left = fields.flag_or("lstrip", false);
  rules.strip_right = fields.flag_or("rstrip", false);
  rules.normalized = fields.flag_or("normalized", !special);
  const bool single_word = fields.flag_or("single_word", false);
  if (content.empty()) fields.fail("the token with id " + std::to_string(id) + " has no 'content'");
  if (single_word)
    fields.fail("token " + in_quotes(content) + ": field 'single_word' is true; supported: false");
  if (!fields.status().ok()) return fields.status();
  KVCRUSH_RETURN_IF_ERROR(place_token(id, content, special ? TokenKind::kControl : TokenKind::kUserDefined,
                                      id_limit, source, spec));
  spec.added_rules[static_cast<TokenId>(id)] = rules;
  return {};
}

void name_holes(TokenizerSpec& spec) {
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.kinds[i] == TokenKind::kUnused && spec.tokens[i].empty())
      spec.tokens[i] = "[PAD" + std::to_string(i) + "]";
  }
}

}  // namespace kvcrush
