#include "engine/tokenizer/bpe_merges.h"

#include <algorithm>

#include "engine/core/readable.h"
#include "engine/tokenizer/utf8.h"

namespace kvcrush {

TokenIndex index_tokens(const std::vector<std::string>& token_texts) {
  TokenIndex index;
  index.reserve(token_texts.size());
  for (std::size_t i = 0; i < token_texts.size(); ++i) {
    if (!token_texts[i].empty()) index.try_emplace(token_texts[i], static_cast<TokenId>(i));
  }
  return index;
}

Result<std::vector<BpeMerge>> listed_merges(const TokenIndex& tokens, const std::vector<std::string>& lines,
                                            SpellingToText text_of) {
  std::vector<BpeMerge> merges;
  merges.reserve(lines.size());
  for (std::size_t rank = 0; rank < lines.size(); ++rank) {
    const std::string& line = lines[rank];
    const auto complain = [&](std::string_view why) {
      return invalid_argument("tokenizer merge " + std::to_string(rank) + " " + in_quotes(line) + ": " +
                              std::string(why));
    };
    const std::size_t space = line.find(' ');
    if (space == std::string::npos || space == 0 || space + 1 == line.size()) {
      return complain("must be two tokens with one space between them");
    }
    const auto left = text_of(std::string_view(line).substr(0, space));
    const auto right = text_of(std::string_view(line).substr(space + 1));
    if (!left || !right) return complain("has a character that stands for no byte");
    const auto left_id = tokens.find(*left);
    const auto right_id = tokens.find(*right);
    const auto merged_id = tokens.find(*left + *right);
    if (left_id == tokens.end()) return complain("the left part is not a token");
    if (right_id == tokens.end()) return complain("the right part is not a token");
    if (merged_id == tokens.end()) return complain("the result is not a token");
    merges.push_back({left_id->second, right_id->second, merged_id->second, static_cast<std::int32_t>(rank)});
  }
  return merges;
}

std::vector<BpeMerge> scored_merges(const TokenIndex& tokens, const std::vector<double>& scores) {
  std::vector<BpeMerge> merges;
  for (const auto& [text, id] : tokens) {
    for (std::size_t cut = 0; (cut += utf8::next(text, cut).num_bytes) < text.size();) {
      const auto left = tokens.find(text.substr(0, cut));
      if (left == tokens.end()) continue;
      const auto right = tokens.find(text.substr(cut));
      if (right != tokens.end()) merges.push_back({left->second, right->second, id, 0});
    }
  }
  const auto score_of = [&](const BpeMerge& merge) { return scores[static_cast<std::size_t>(merge.merged)]; };
  std::sort(merges.begin(), merges.end(),
            [&](const BpeMerge& a, const BpeMerge& b) { return score_of(a) > score_of(b); });
  for (std::size_t i = 1; i < merges.size(); ++i) {
    merges[i].rank = merges[i - 1].rank + (score_of(merges[i]) < score_of(merges[i - 1]) ? 1 : 0);
  }
  return merges;
}

}  // namespace kvcrush
