#include "engine/tokenizer/added_tokens.h"

#include <algorithm>

#include "engine/tokenizer/sentencepiece_text.h"
#include "engine/tokenizer/utf8.h"

namespace kvcrush {
namespace {

bool is_whole(TokenKind kind) {
  return kind == TokenKind::kControl || kind == TokenKind::kUserDefined || kind == TokenKind::kUnknown;
}

// Of `text` with U+2581 already made a space.
bool is_white_space(std::string_view text) {
  for (std::size_t offset = 0; offset < text.size();) {
    const utf8::Step step = utf8::next(text, offset);
    if (!utf8::is_white_space(step.code_point)) return false;
    offset += step.num_bytes;
  }
  return !text.empty();
}

std::size_t skip_space(std::string_view text, std::size_t offset) {
  while (offset < text.size()) {
    const utf8::Step step = utf8::next(text, offset);
    if (!utf8::is_white_space(step.code_point)) break;
    offset += step.num_bytes;
  }
  return offset;
}

std::size_t skip_space_backwards(std::string_view text, std::size_t offset, std::size_t begin) {
  while (offset > begin) {
    std::size_t previous = offset - 1;
    while (previous > begin && (static_cast<std::uint8_t>(text[previous]) & 0xC0) == 0x80) --previous;
    if (!utf8::is_white_space(utf8::next(text, previous).code_point)) break;
    offset = previous;
  }
  return offset;
}

}  // namespace

AddedTokens::AddedTokens(const TokenizerSpec& spec, const std::vector<std::string>& texts)
    : rules_(spec.added_rules) {
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) {
    if (!is_whole(spec.kinds[i])) continue;
    const auto id = static_cast<TokenId>(i);
    const bool is_text =
        spec.kinds[i] == TokenKind::kUserDefined && is_white_space(spaces_from_escapes(spec.tokens[i]));
    if (!is_text) {
      markers_.add(spec.tokens[i], id);
    } else if (rules_of(id).normalized) {
      normalized_space_.add(texts[i], id);
    } else {
      raw_space_.add(spec.tokens[i], id);
    }
  }
}

AddedTokenRules AddedTokens::rules_of(TokenId id) const {
  const auto found = rules_.find(id);
  return found == rules_.end() ? AddedTokenRules() : found->second;
}

AddedTokens::Match AddedTokens::find_marker(std::string_view text, std::size_t offset,
                                            std::size_t plain_begin) const {
  Match match = markers_.find(text, offset);
  if (match.id >= 0 && rules_of(match.id).strip_left) {
    match.begin = skip_space_backwards(text, match.begin, plain_begin);
  }
  return match;
}

std::size_t AddedTokens::end_with_space(const Match& marker, std::string_view text) const {
  return rules_of(marker.id).strip_right ? skip_space(text, marker.end) : marker.end;
}

}  // namespace kvcrush
