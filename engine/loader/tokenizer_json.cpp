#include "engine/loader/tokenizer_json.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/core/readable.h"
#include "engine/loader/hf_pre_tokenizer.h"
#include "engine/loader/json_fields.h"

namespace kvcrush {
namespace {

using nlohmann::json;

// `id_limit`: where ids end.
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

// Ids may leave holes, of a bounded number: a few tokens must not ask for memory of millions.
std::int64_t id_limit(const json& tokenizer, const json& vocab, int vocab_size) {
  constexpr std::int64_t kMaxHoles = 1 << 16;
  const auto added = tokenizer.find("added_tokens");
  const std::size_t num_tokens = vocab.size() + (added == tokenizer.end() ? 0 : added->size());
  return std::min<std::int64_t>(vocab_size, static_cast<std::int64_t>(num_tokens) + kMaxHoles);
}

Status check_bpe(const json& model, const std::string& source) {
  JsonFields fields(model, source + ": model");
  const std::string type = fields.text_or("type", "BPE");
  if (type != "BPE") fields.fail("type is " + in_quotes(type) + "; supported: BPE");
  if (fields.flag_or("byte_fallback", false)) fields.fail("field 'byte_fallback' is true; supported: false");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!fields.text_or(key, "").empty())
      fields.fail("field '" + std::string(key) + "' is set; it is not supported");
  }
  for (const char* key : {"vocab", "merges"}) {
    if (!fields.has(key)) fields.fail("field '" + std::string(key) + "' is missing");
  }
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
    const std::string content = fields.text_or("content", "");
    const bool special = fields.flag_or("special", false);
    if (content.empty()) fields.fail("the token with id " + std::to_string(id) + " has no 'content'");
    if (!fields.status().ok()) return fields.status();
    const TokenKind kind = special ? TokenKind::kControl : TokenKind::kUserDefined;
    KVCRUSH_RETURN_IF_ERROR(place_token(id, content, kind, id_limit, source, spec));
  }
  return {};
}

Status check_normalizer(const json& tokenizer, const std::string& source) {
  const auto normalizer = tokenizer.find("normalizer");
  if (normalizer == tokenizer.end() || normalizer->is_null()) return {};
  JsonFields fields(*normalizer, source + ": normalizer");
  // Text arrives composed in practice, and GGUF files of the same models drop this step too.
  const std::string type = fields.text_or("type", "");
  if (type != "NFC")
    fields.fail("type is " + in_quotes(type) + "; supported: none, NFC (taken as already done)");
  return fields.status();
}

// Whether a post-processor puts a special token before the text: a TemplateProcessing, alone or in a
// Sequence.
bool adds_bos(const json& processor) {
  if (!processor.is_object()) return false;
  const std::string type = token_text(processor.contains("type") ? &processor["type"] : nullptr);
  if (type == "Sequence" && processor.contains("processors") && processor["processors"].is_array()) {
    const json& steps = processor["processors"];
    return std::any_of(steps.begin(), steps.end(), [](const json& step) {
      return step.is_object() && step.contains("type") && step["type"] == "TemplateProcessing" &&
             adds_bos(step);
    });
  }
  if (type != "TemplateProcessing" || !processor.contains("single")) return false;
  const json& single = processor["single"];
  return single.is_array() && !single.empty() && single[0].is_object() && single[0].contains("SpecialToken");
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
  KVCRUSH_RETURN_IF_ERROR(check_bpe(*model, source));
  KVCRUSH_RETURN_IF_ERROR(check_normalizer(tokenizer, source));
  const auto steps = tokenizer.find("pre_tokenizer");
  Result<PreTokenizer> pre = steps == tokenizer.end() ? recognise_pre_tokenizer(json(), source)
                                                      : recognise_pre_tokenizer(*steps, source);
  if (!pre.ok()) return pre.status();
  TokenizerSpec spec;
  spec.model = "gpt2";
  spec.pre_tokenizer = pre->name;
  spec.add_space_prefix = pre->add_space_prefix;
  // Llama 3's vocabulary has words that its merges cannot build, and its pre-tokenizer implies looking them
  // up whole.
  const auto ignore_merges = model->find("ignore_merges");
  if (ignore_merges != model->end() && *ignore_merges == true && spec.pre_tokenizer != "llama-bpe") {
    return invalid_argument(
        source + ": model: field 'ignore_merges' is true; supported with llama3's pre_tokenizer only");
  }
  const std::int64_t limit = id_limit(tokenizer, (*model)["vocab"], vocab_size);
  KVCRUSH_RETURN_IF_ERROR(read_vocab((*model)["vocab"], limit, source, spec));
  KVCRUSH_RETURN_IF_ERROR(read_merges((*model)["merges"], source, spec));
  KVCRUSH_RETURN_IF_ERROR(read_added_tokens(tokenizer, limit, source, spec));
  if (spec.tokens.empty()) return invalid_argument(source + ": the vocabulary is empty");
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.kinds[i] == TokenKind::kUnused) spec.tokens[i] = "[PAD" + std::to_string(i) + "]";
  }
  const auto processor = tokenizer.find("post_processor");
  spec.add_bos = processor != tokenizer.end() && adds_bos(*processor);
  return spec;
}

}  // namespace kvcrush
