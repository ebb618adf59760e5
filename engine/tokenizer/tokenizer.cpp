#include "engine/tokenizer/tokenizer.h"

#include <algorithm>

#include "engine/tokenizer/added_tokens.h"
#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/nfc.h"
#include "engine/tokenizer/sentencepiece_text.h"
#include "engine/tokenizer/spec_check.h"
#include "engine/tokenizer/text_model.h"
#include "engine/tokenizer/utf8.h"

namespace kvcrush {
namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;  // symbol indices are 32 bits wide

bool is_hidden_kind(TokenKind kind) {
  return kind == TokenKind::kControl || kind == TokenKind::kUnknown || kind == TokenKind::kUnused;
}

Status refuse_broken_utf8(std::string_view text) {
  if (text.size() > kMaxTextBytes) {
    return invalid_argument("text has " + std::to_string(text.size()) + " bytes; at most " +
                            std::to_string(kMaxTextBytes) + " are allowed");
  }
  if (const auto offset = utf8::first_error(text)) {
    return invalid_argument("text is not valid UTF-8 at byte " + std::to_string(*offset));
  }
  return {};
}

// What each token stands for, in text that is normalised.
std::vector<std::string> texts_of_tokens(const TokenizerSpec& spec) {
  const bool byte_level = spec.model == "gpt2";
  std::vector<std::string> texts(spec.tokens.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::string& spelling = spec.tokens[i];
    if (spec.kinds[i] == TokenKind::kByte) {
      texts[i] = byte_of_spelling(spelling).value_or(spelling);
    } else if (!byte_level) {
      texts[i] = spaces_from_escapes(spelling);
    } else if (spec.kinds[i] == TokenKind::kNormal) {
      texts[i] = bytes_from_alphabet(spelling).value_or(spelling);
    } else {
      texts[i] = spelling;
    }
  }
  return texts;
}

}  // namespace

struct Tokenizer::Impl {
  TokenizerSpec spec;
  std::vector<std::string> token_bytes;  // [vocab_size]
  AddedTokens added;
  TextModel model;
  std::size_t longest_token_bytes = 0;

  std::string normalize(std::string_view text) const;
  Status encode_words(std::string_view text, bool begins_text, TextModel::Scratch& scratch,
                      std::vector<TokenId>& out) const;
  Status encode_normalized(std::string_view text, bool begins_text, TextModel::Scratch& scratch,
                           std::vector<TokenId>& out) const;
  Status encode_plain(std::string_view text, bool begins_text, TextModel::Scratch& scratch,
                      std::vector<TokenId>& out) const;
};

std::string Tokenizer::Impl::normalize(std::string_view text) const {
  std::string result;
  if (spec.space_prefix == SpacePrefix::kAlways) result = " ";
  const auto composed = spec.normalize_nfc ? compose_nfc(text) : std::nullopt;
  const std::string_view rest = composed ? std::string_view(*composed) : text;
  return spec.model == "gpt2" ? result.append(rest) : result.append(spaces_from_escapes(rest));
}

Status Tokenizer::Impl::encode_words(std::string_view text, bool begins_text, TextModel::Scratch& scratch,
                                     std::vector<TokenId>& out) const {
  if (text.empty()) return {};
  const bool wants_space = spec.space_prefix == SpacePrefix::kMissing ||
                           (spec.space_prefix == SpacePrefix::kStartOfText && begins_text);
  if (!wants_space || text.front() == ' ') return model.encode(text, scratch, out);
  return model.encode(std::string(1, ' ').append(text), scratch, out);
}

// One stretch of normalised text: cut at white space that has tokens of its own.
Status Tokenizer::Impl::encode_normalized(std::string_view text, bool begins_text,
                                          TextModel::Scratch& scratch, std::vector<TokenId>& out) const {
  for (std::size_t offset = 0; offset < text.size();) {
    const AddedTokens::Match match = added.find_normalized_space(text, offset);
    KVCRUSH_RETURN_IF_ERROR(
        encode_words(text.substr(offset, match.begin - offset), begins_text && offset == 0, scratch, out));
    if (match.id >= 0) out.push_back(match.id);
    offset = match.end;
  }
  return {};
}

// One stretch of text without markers.
Status Tokenizer::Impl::encode_plain(std::string_view text, bool begins_text, TextModel::Scratch& scratch,
                                     std::vector<TokenId>& out) const {
  for (std::size_t offset = 0; offset < text.size();) {
    const AddedTokens::Match match = added.find_space(text, offset);
    if (match.begin > offset) {
      KVCRUSH_RETURN_IF_ERROR(encode_normalized(normalize(text.substr(offset, match.begin - offset)),
                                                begins_text && offset == 0, scratch, out));
    }
    if (match.id >= 0) out.push_back(match.id);
    offset = match.end;
  }
  return {};
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

Result<std::shared_ptr<const Tokenizer>> Tokenizer::create(TokenizerSpec spec) {
  KVCRUSH_RETURN_IF_ERROR(check_spec(spec));
  std::vector<std::string> texts = texts_of_tokens(spec);
  auto model = TextModel::create(spec, texts);
  if (!model.ok()) return model.status();
  std::size_t longest = 0;
  for (const std::string& text : texts) longest = std::max(longest, text.size());
  AddedTokens added(spec, texts);
  // Moving a vector leaves its texts where they are, as the model asks.
  auto impl = std::make_unique<Impl>(
      Impl{std::move(spec), std::move(texts), std::move(added), *std::move(model), longest});
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(impl)));
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<TokenId> ids;
  if (options.add_special_tokens && impl_->spec.add_bos) ids.push_back(impl_->spec.bos_id);
  const Run run{text.size(), options.parse_special_tokens};
  KVCRUSH_RETURN_IF_ERROR(encode_runs(text, std::span(&run, 1), ids));
  if (options.add_special_tokens && impl_->spec.add_eos) ids.push_back(impl_->spec.eos_id);
  return ids;
}

Result<std::vector<TokenId>> Tokenizer::encode(std::span<const PromptPiece> pieces) const {
  std::string text;
  std::vector<Run> runs;
  for (const PromptPiece& piece : pieces) {
    text += piece.text;
    const bool has_markers = !piece.from_message;
    if (runs.empty() || runs.back().has_markers != has_markers) runs.push_back({0, has_markers});
    runs.back().end = text.size();
  }
  std::vector<TokenId> ids;
  KVCRUSH_RETURN_IF_ERROR(encode_runs(text, runs, ids));
  return ids;
}

Status Tokenizer::encode_runs(std::string_view text, std::span<const Run> runs,
                              std::vector<TokenId>& ids) const {
  KVCRUSH_RETURN_IF_ERROR(refuse_broken_utf8(text));
  TextModel::Scratch scratch;
  std::size_t plain_begin = 0;  // text before this offset is encoded
  std::size_t offset = 0;
  const auto encode_until = [&](std::size_t end) {
    return impl_->encode_plain(text.substr(plain_begin, end - plain_begin), plain_begin == 0, scratch, ids);
  };
  for (const Run& run : runs) {
    const std::string_view until_run_end = text.substr(0, run.end);
    while (run.has_markers && offset < run.end) {
      const AddedTokens::Match match = impl_->added.find_marker(until_run_end, offset, plain_begin);
      offset = match.end;
      if (match.id < 0) continue;
      KVCRUSH_RETURN_IF_ERROR(encode_until(match.begin));
      ids.push_back(match.id);
      plain_begin = impl_->added.end_with_space(match, text);
      offset = std::max(offset, plain_begin);
    }
    offset = std::max(offset, run.end);
  }
  return encode_until(text.size());
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (const TokenId id : ids) {
    if (!skip_special_tokens || !is_special(id)) bytes += token_bytes(id);
  }
  if (impl_->spec.strip_first_space && bytes.starts_with(' ')) bytes.erase(0, 1);
  return bytes;
}

std::string_view Tokenizer::token_bytes(TokenId id) const {
  KVCRUSH_CHECK(id >= 0 && id < vocab_size());
  return impl_->token_bytes[static_cast<std::size_t>(id)];
}

bool Tokenizer::is_special(TokenId id) const {
  KVCRUSH_CHECK(id >= 0 && id < vocab_size());
  return is_hidden_kind(impl_->spec.kinds[static_cast<std::size_t>(id)]);
}

int Tokenizer::vocab_size() const {
  return static_cast<int>(impl_->spec.tokens.size());
}
std::size_t Tokenizer::longest_token_bytes() const {
  return impl_->longest_token_bytes;
}
const TokenizerSpec& Tokenizer::spec() const {
  return impl_->spec;
}

}  // namespace kvcrush
