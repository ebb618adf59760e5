#include "engine/tokenizer/tokenizer.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "engine/core/readable.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/special_tokens.h"
#include "engine/tokenizer/utf8.h"

namespace kvcrush {
namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;  // symbol indices are 32 bits wide
constexpr std::size_t kMaxTokenBytes = std::size_t{1} << 16;

bool is_hidden_kind(TokenKind kind) {
  return kind == TokenKind::kControl || kind == TokenKind::kUnknown || kind == TokenKind::kUnused;
}

bool is_spelled_whole(TokenKind kind) {
  return kind == TokenKind::kControl || kind == TokenKind::kUserDefined || kind == TokenKind::kUnknown;
}

// "<0x0A>" -> "\n"
std::optional<std::string> byte_of_spelling(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') return std::nullopt;
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data() + 3, text.data() + 5, value, 16);
  if (error != std::errc() || end != text.data() + 5) return std::nullopt;
  return std::string(1, static_cast<char>(value));
}

Status check_id(std::string_view field, TokenId id, std::size_t num_tokens) {
  if (id >= -1 && id < static_cast<std::int64_t>(num_tokens)) return {};
  return invalid_argument("tokenizer " + std::string(field) + " is " + std::to_string(id) +
                          "; must be -1 (none) or below the vocabulary's size, " +
                          std::to_string(num_tokens));
}

Status check_spec(const TokenizerSpec& spec) {
  const std::size_t num_tokens = spec.tokens.size();
  if (spec.model != "gpt2") {
    return invalid_argument("unknown tokenizer model " + in_quotes(spec.model) +
                            "; known: gpt2 (byte-level BPE)");
  }
  if (num_tokens == 0) return invalid_argument("tokenizer has no tokens");
  for (std::size_t i = 0; i < num_tokens; ++i) {
    if (spec.tokens[i].size() <= kMaxTokenBytes) continue;
    return invalid_argument("tokenizer token " + std::to_string(i) + " has " +
                            std::to_string(spec.tokens[i].size()) + " bytes; at most " +
                            std::to_string(kMaxTokenBytes) + " are allowed");
  }
  if (spec.kinds.size() != num_tokens) {
    return invalid_argument("tokenizer has " + std::to_string(num_tokens) + " tokens but " +
                            std::to_string(spec.kinds.size()) + " token kinds; the numbers must be equal");
  }
  KVCRUSH_RETURN_IF_ERROR(check_id("bos_id", spec.bos_id, num_tokens));
  KVCRUSH_RETURN_IF_ERROR(check_id("eos_id", spec.eos_id, num_tokens));
  KVCRUSH_RETURN_IF_ERROR(check_id("unknown_id", spec.unknown_id, num_tokens));
  KVCRUSH_RETURN_IF_ERROR(check_id("padding_id", spec.padding_id, num_tokens));
  for (const TokenId id : spec.stop_ids) KVCRUSH_RETURN_IF_ERROR(check_id("stop id", id, num_tokens));
  if (spec.add_bos && spec.bos_id < 0)
    return invalid_argument("tokenizer add_bos is set but there is no bos_id");
  return {};
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

}  // namespace

struct Tokenizer::Impl {
  TokenizerSpec spec;
  std::vector<std::string> token_bytes;  // [vocab_size]
  std::vector<std::string> bpe_bytes;    // [vocab_size], empty where the token takes no part in merging
  SpecialTokens specials;
  std::shared_ptr<const PreTokenizer> pre_tokenizer;
  std::optional<Bpe> bpe;
  std::size_t longest_token_bytes = 0;

  void spell_tokens() {
    const std::size_t num_tokens = spec.tokens.size();
    token_bytes.resize(num_tokens);
    bpe_bytes.resize(num_tokens);
    for (std::size_t i = 0; i < num_tokens; ++i) {
      const std::string& text = spec.tokens[i];
      const TokenKind kind = spec.kinds[i];
      token_bytes[i] = text;
      if (kind == TokenKind::kByte) token_bytes[i] = byte_of_spelling(text).value_or(text);
      if (is_spelled_whole(kind)) specials.add(text, static_cast<TokenId>(i));
      if (kind != TokenKind::kNormal) continue;
      if (auto bytes = bytes_from_alphabet(text)) token_bytes[i] = bpe_bytes[i] = *std::move(bytes);
    }
    for (const std::string& bytes : token_bytes) {
      longest_token_bytes = std::max(longest_token_bytes, bytes.size());
    }
  }

  // One stretch of text without special tokens.
  Status encode_plain(std::string_view text, Bpe::Scratch& scratch, std::vector<TokenId>& out) const {
    if (text.empty()) return {};
    std::string prefixed;
    if (spec.add_space_prefix && text.front() != ' ') {
      prefixed.append(1, ' ').append(text);
      text = prefixed;
    }
    return pre_tokenizer->split(text, [&](std::string_view word) { bpe->encode(word, scratch, out); });
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

Result<std::shared_ptr<const Tokenizer>> Tokenizer::create(TokenizerSpec spec) {
  KVCRUSH_RETURN_IF_ERROR(check_spec(spec));
  auto pre_tokenizer = PreTokenizer::create(spec.pre_tokenizer);
  if (!pre_tokenizer.ok()) return pre_tokenizer.status();

  auto impl = std::make_unique<Impl>();
  impl->spec = std::move(spec);
  impl->pre_tokenizer = *std::move(pre_tokenizer);
  impl->spell_tokens();
  auto bpe = Bpe::create(impl->bpe_bytes, impl->spec.merges, impl->pre_tokenizer->whole_words_first());
  if (!bpe.ok()) return bpe.status();
  impl->bpe = *std::move(bpe);
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(impl)));
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  KVCRUSH_RETURN_IF_ERROR(refuse_broken_utf8(text));
  std::vector<TokenId> ids;
  Bpe::Scratch scratch;
  if (options.add_special_tokens && impl_->spec.add_bos) ids.push_back(impl_->spec.bos_id);
  std::size_t offset = 0;
  while (options.parse_special_tokens && offset < text.size()) {
    const SpecialTokens::Match match = impl_->specials.find(text, offset);
    KVCRUSH_RETURN_IF_ERROR(impl_->encode_plain(text.substr(offset, match.begin - offset), scratch, ids));
    if (match.id >= 0) ids.push_back(match.id);
    offset = match.end;
  }
  KVCRUSH_RETURN_IF_ERROR(impl_->encode_plain(text.substr(offset), scratch, ids));
  return ids;
}

Result<std::vector<TokenId>> Tokenizer::encode(std::span<const PromptPiece> pieces) const {
  std::string text;
  for (const PromptPiece& piece : pieces) text += piece.text;
  KVCRUSH_RETURN_IF_ERROR(refuse_broken_utf8(text));

  std::vector<TokenId> ids;
  Bpe::Scratch scratch;
  std::size_t plain_begin = 0;  // text before this offset is encoded
  std::size_t run_begin = 0;    // of neighbouring pieces that the template wrote itself
  const std::string_view view = text;
  for (std::size_t i = 0; i < pieces.size();) {
    std::size_t run_end = run_begin + pieces[i].text.size();
    const bool from_message = pieces[i].from_message;
    for (++i; i < pieces.size() && pieces[i].from_message == from_message; ++i)
      run_end += pieces[i].text.size();
    const std::string_view until_run_end = view.substr(0, run_end);
    std::size_t offset = run_begin;
    while (!from_message && offset < run_end) {
      const SpecialTokens::Match match = impl_->specials.find(until_run_end, offset);
      offset = match.end;
      if (match.id < 0) continue;
      KVCRUSH_RETURN_IF_ERROR(
          impl_->encode_plain(view.substr(plain_begin, match.begin - plain_begin), scratch, ids));
      ids.push_back(match.id);
      plain_begin = match.end;
    }
    run_begin = run_end;
  }
  KVCRUSH_RETURN_IF_ERROR(impl_->encode_plain(view.substr(plain_begin), scratch, ids));
  return ids;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (const TokenId id : ids) {
    if (!skip_special_tokens || !is_special(id)) bytes += token_bytes(id);
  }
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
