#include "engine/tokenizer/text_model.h"

#include <algorithm>
#include <utility>

#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/sentencepiece_text.h"

namespace kvcrush {
namespace {

std::optional<std::string> text_of_piece(std::string_view spelling) {
  return spaces_from_escapes(spelling);
}

UnknownCharacters unknown_characters(const TokenizerSpec& spec, const std::vector<std::string>& texts) {
  UnknownCharacters unknown;
  unknown.unknown_id = spec.unknown_id;
  unknown.fuse = spec.fuse_unknown;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (spec.kinds[i] != TokenKind::kByte) continue;
    unknown.byte_ids[static_cast<std::uint8_t>(texts[i][0])] = static_cast<TokenId>(i);
  }
  return unknown;
}

bool has_space_inside(const TokenIndex& tokens) {
  return std::any_of(tokens.begin(), tokens.end(), [](const auto& token) {
    const std::size_t word = token.first.find_first_not_of(' ');
    return word != std::string_view::npos && token.first.find(' ', word) != std::string_view::npos;
  });
}

// Where the word that begins `text` ends: a space, or a run of spaces, and what follows up to the next.
std::size_t word_end(std::string_view text, bool one_space) {
  const std::size_t begin = one_space ? 1 : std::min(text.find_first_not_of(' '), text.size());
  return std::min(text.find(' ', begin), text.size());
}

}  // namespace

Result<TextModel> TextModel::create(const TokenizerSpec& spec, const std::vector<std::string>& texts) {
  TextModel model;
  const Status status =
      spec.model == "gpt2" ? model.use_byte_level(spec, texts) : model.use_pieces(spec, texts);
  KVCRUSH_RETURN_IF_ERROR(status);
  return model;
}

Status TextModel::use_byte_level(const TokenizerSpec& spec, const std::vector<std::string>& texts) {
  auto pre_tokenizer = PreTokenizer::create(spec.pre_tokenizer);
  if (!pre_tokenizer.ok()) return pre_tokenizer.status();
  pre_tokenizer_ = *std::move(pre_tokenizer);
  TokenIndex tokens;
  tokens.reserve(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    // Tokens outside the alphabet are found whole or never.
    const bool takes_part =
        spec.kinds[i] == TokenKind::kNormal && !texts[i].empty() && bytes_from_alphabet(spec.tokens[i]);
    if (takes_part) tokens.try_emplace(texts[i], static_cast<TokenId>(i));
  }
  auto merges = listed_merges(tokens, spec.merges, bytes_from_alphabet);
  if (!merges.ok()) return merges.status();
  bpe_.emplace(std::move(tokens), *merges, BpeUnit::kBytes, spec.whole_words_first);
  return {};
}

Status TextModel::use_pieces(const TokenizerSpec& spec, const std::vector<std::string>& texts) {
  const auto is_kind = [&](TokenId id, TokenKind kind) {
    return spec.kinds[static_cast<std::size_t>(id)] == kind;
  };
  const bool has_merges = spec.model == "llama" && spec.scores.empty();
  TokenIndex tokens;  // that plain text may become
  TokenIndex named;   // and those that a list of merges may name beside them
  tokens.reserve(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].empty()) continue;
    const TokenKind kind = spec.kinds[i];
    const auto id = static_cast<TokenId>(i);
    // User-defined tokens are found whole in the first place, but a list may need them on the way to others.
    const bool takes_part = kind == TokenKind::kNormal || (has_merges && kind == TokenKind::kUserDefined);
    if (takes_part) tokens.try_emplace(texts[i], id);
    if (has_merges && kind != TokenKind::kByte) named.try_emplace(texts[i], id);
  }
  const UnknownCharacters unknown = unknown_characters(spec, texts);
  if (spec.split_at_spaces) {
    spaces_ = Spaces::kAlone;
  } else if (spec.model == "llama" && tokens.contains(" ") && !has_space_inside(tokens)) {
    spaces_ = Spaces::kInFront;  // no merge crosses: words one by one are the same, and quicker
  }
  if (spec.model == "t5") {
    unigram_.emplace(tokens, spec.scores, unknown);
    return {};
  }
  std::vector<BpeMerge> merges;
  if (has_merges) {
    auto listed = listed_merges(named, spec.merges, text_of_piece);
    if (!listed.ok()) return listed.status();
    merges = *std::move(listed);
    // No text becomes a control token by merging.
    std::erase_if(merges, [&](const BpeMerge& merge) {
      return is_kind(merge.merged, TokenKind::kControl) || is_kind(merge.merged, TokenKind::kUnknown);
    });
  } else {
    merges = scored_merges(tokens, spec.scores);
  }
  bpe_.emplace(std::move(tokens), merges, BpeUnit::kCharacters, /*whole_words_first=*/false, unknown);
  return {};
}

Status TextModel::encode(std::string_view text, Scratch& scratch, std::vector<TokenId>& out) const {
  const auto encode_word = [&](std::string_view word) {
    if (unigram_) {
      unigram_->encode(word, scratch.unigram, out);
    } else {
      bpe_->encode(word, scratch.bpe, out);
    }
  };
  if (pre_tokenizer_) return pre_tokenizer_->split(text, encode_word);
  while (!text.empty()) {
    const std::size_t end =
        spaces_ == Spaces::kAnywhere ? text.size() : word_end(text, spaces_ == Spaces::kAlone);
    encode_word(text.substr(0, end));
    text.remove_prefix(end);
  }
  return {};
}

}  // namespace kvcrush
