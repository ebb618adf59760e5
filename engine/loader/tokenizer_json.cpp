#include "engine/loader/tokenizer_json.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "engine/core/readable.h"
#include "engine/loader/hf_post_processor.h"
#include "engine/loader/hf_text_steps.h"
#include "engine/loader/hf_vocabulary.h"
#include "engine/loader/json_fields.h"
#include "engine/tokenizer/sentencepiece_text.h"

namespace kvcrush {
namespace {

using nlohmann::json;

constexpr double kMaxScore = 1e30;

// `spec.model` says whether text becomes bytes.
Status check_bpe(const json& model, const std::string& source, TokenizerSpec& spec) {
  JsonFields fields(model, source + ": model");
  const bool byte_level = spec.model == "gpt2";
  if (byte_level && fields.flag_or("byte_fallback", false)) {
    fields.fail("field 'byte_fallback' is true; supported with a pre_tokenizer of bytes: false");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!fields.text_or(key, "").empty())
      fields.fail("field '" + std::string(key) + "' is set; it is not supported");
  }
  if (fields.number_or("dropout", 0.0, 0.0, 1.0) != 0.0)
    fields.fail("field 'dropout' is not 0; it is not supported");
  for (const char* key : {"vocab", "merges"}) {
    if (!fields.has(key)) fields.fail("field '" + std::string(key) + "' is missing");
  }
  spec.fuse_unknown = fields.flag_or("fuse_unk", false);
  spec.whole_words_first = fields.flag_or("ignore_merges", false);
  if (spec.whole_words_first && !byte_level) {
    fields.fail("field 'ignore_merges' is true; supported with a pre_tokenizer of bytes only");
  }
  return fields.status();
}

Status check_unigram(const json& model, const std::string& source, TokenizerSpec& spec) {
  JsonFields fields(model, source + ": model");
  if (spec.model == "gpt2") fields.fail("type is 'Unigram' after a pre_tokenizer of bytes; supported: BPE");
  if (!fields.has("vocab")) fields.fail("field 'vocab' is missing");
  spec.model = "t5";
  spec.fuse_unknown = true;
  return fields.status();
}

Status read_vocab(const json& vocab, std::int64_t id_limit, const std::string& source, TokenizerSpec& spec) {
  if (!vocab.is_object()) return invalid_argument(source + ": model: field 'vocab' is no object");
  for (const auto& [token, id] : vocab.items()) {
    const std::int64_t number = id.is_number_unsigned() ? id.get<std::int64_t>() : -1;
    KVCRUSH_RETURN_IF_ERROR(place_token(number, token, TokenKind::kNormal, id_limit, source, spec));
  }
  return {};
}

// [[token, log-probability], ...]
Status read_scored_vocab(const json& vocab, std::int64_t id_limit, const std::string& source,
                         TokenizerSpec& spec) {
  if (!vocab.is_array()) return invalid_argument(source + ": model: field 'vocab' is no array");
  for (const json& entry : vocab) {
    const auto id = static_cast<std::int64_t>(spec.tokens.size());
    const bool sound = entry.is_array() && entry.size() == 2 && entry[0].is_string() &&
                       entry[1].is_number() && std::abs(entry[1].get<double>()) <= kMaxScore;
    if (!sound) {
      return invalid_argument(source + ": model: entry " + std::to_string(id) +
                              " of 'vocab' is not a token and its log-probability");
    }
    KVCRUSH_RETURN_IF_ERROR(
        place_token(id, entry[0].get<std::string>(), TokenKind::kNormal, id_limit, source, spec));
    spec.scores.push_back(entry[1].get<double>());
  }
  return {};
}

Status bad_merge(const std::string& source, std::size_t index, const std::string& text) {
  return invalid_argument(source + ": model: merge " + std::to_string(index) + " is " + in_quotes(text) +
                          "; two tokens are expected");
}

// "left right" or ["left", "right"].
Status read_merges(const json& merges, const std::string& source, TokenizerSpec& spec) {
  if (!merges.is_array()) return invalid_argument(source + ": model: field 'merges' is no array");
  spec.merges.reserve(merges.size());
  for (const json& merge : merges) {
    std::string text;
    if (merge.is_string()) {
      text = merge.get<std::string>();
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      text = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    }
    const std::size_t space = text.find(' ');
    if (space == 0 || space == std::string::npos || space + 1 == text.size() ||
        text.find(' ', space + 1) != std::string::npos) {
      return bad_merge(source, spec.merges.size(), text);
    }
    spec.merges.push_back(std::move(text));
  }
  return {};
}

Status read_added_tokens(const json& tokenizer, std::int64_t id_limit, const std::string& source,
                         TokenizerSpec& spec) {
  const auto added = tokenizer.find("added_tokens");
  if (added == tokenizer.end() || added->is_null()) return {};
  if (!added->is_array()) return invalid_argument(source + ": field 'added_tokens' is no array");
  for (const json& token : *added) {
    JsonFields fields(token, source + ": added_tokens");
    const std::int64_t id = fields.integer("id", 0, INT32_MAX);
    if (!fields.status().ok()) return fields.status();
    KVCRUSH_RETURN_IF_ERROR(place_added_token(id, token, id_limit, source + ": added_tokens", spec));
  }
  return {};
}

// The unknown token, and tokens that stand for bytes.
Status read_fallbacks(const json& model, const std::string& source, TokenizerSpec& spec) {
  JsonFields fields(model, source + ": model");
  const std::int64_t last = static_cast<std::int64_t>(spec.tokens.size()) - 1;
  spec.unknown_id = static_cast<TokenId>(fields.integer_or("unk_id", -1, 0, last));
  if (const std::string text = fields.text_or("unk_token", ""); !text.empty()) {
    const auto found = std::find(spec.tokens.begin(), spec.tokens.end(), text);
    if (found == spec.tokens.end())
      fields.fail("field 'unk_token' is " + in_quotes(text) + ", which is not in 'vocab'");
    spec.unknown_id = static_cast<TokenId>(found - spec.tokens.begin());
  }
  const bool byte_fallback = fields.flag_or("byte_fallback", false);
  if (!fields.status().ok()) return fields.status();
  if (spec.unknown_id >= 0) {
    TokenKind& kind = spec.kinds[static_cast<std::size_t>(spec.unknown_id)];
    if (kind == TokenKind::kNormal) kind = TokenKind::kUnknown;
  }
  for (std::size_t i = 0; byte_fallback && i < spec.tokens.size(); ++i) {
    if (spec.kinds[i] == TokenKind::kNormal && byte_of_spelling(spec.tokens[i]))
      spec.kinds[i] = TokenKind::kByte;
  }
  if (byte_fallback &&
      std::find(spec.kinds.begin(), spec.kinds.end(), TokenKind::kByte) == spec.kinds.end()) {
    return invalid_argument(
        source + ": model: field 'byte_fallback' is true but 'vocab' has no token '<0x00>' to '<0xFF>'");
  }
  return {};
}

}  // namespace

std::string token_text(const json* token) {
  if (token != nullptr && token->is_object()) {
    const auto content = token->find("content");
    token = content == token->end() ? nullptr : &*content;
  }
  return token != nullptr && token->is_string() ? token->get<std::string>() : std::string();
}

Result<TokenizerSpec> parse_tokenizer_json(const json& tokenizer, int vocab_size, const std::string& source) {
  const auto model = tokenizer.find("model");
  if (model == tokenizer.end()) return invalid_argument(source + ": field 'model' is missing");
  TokenizerSpec spec;
  KVCRUSH_RETURN_IF_ERROR(read_text_steps(tokenizer, source, spec));
  JsonFields fields(*model, source + ": model");
  const std::string type = fields.text_or("type", "BPE");
  if (type != "BPE" && type != "Unigram")
    fields.fail("type is " + in_quotes(type) + "; supported: BPE, Unigram");
  if (!fields.status().ok()) return fields.status();
  const bool unigram = type == "Unigram";
  KVCRUSH_RETURN_IF_ERROR(unigram ? check_unigram(*model, source, spec) : check_bpe(*model, source, spec));

  const json& vocab = (*model)["vocab"];
  const auto added = tokenizer.find("added_tokens");
  const std::int64_t limit =
      token_id_limit(vocab.size() + (added == tokenizer.end() ? 0 : added->size()), vocab_size);
  if (unigram) {
    KVCRUSH_RETURN_IF_ERROR(read_scored_vocab(vocab, limit, source, spec));
  } else {
    KVCRUSH_RETURN_IF_ERROR(read_vocab(vocab, limit, source, spec));
    KVCRUSH_RETURN_IF_ERROR(read_merges((*model)["merges"], source, spec));
  }
  KVCRUSH_RETURN_IF_ERROR(read_added_tokens(tokenizer, limit, source, spec));
  if (spec.tokens.empty()) return invalid_argument(source + ": the vocabulary is empty");
  name_holes(spec);
  if (unigram) spec.scores.resize(spec.tokens.size(), 0.0);  // added tokens are found whole
  KVCRUSH_RETURN_IF_ERROR(read_fallbacks(*model, source, spec));
  KVCRUSH_RETURN_IF_ERROR(read_post_processor(tokenizer, source, spec));
  return spec;
}

}  // namespace kvcrush
