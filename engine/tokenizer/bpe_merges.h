// Which pairs of tokens merge, and in which order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/core/status.h"
#include "engine/core/types.h"

namespace kvcrush {

using TokenIndex = std::unordered_map<std::string_view, TokenId>;  // by text; of equal texts the first id

struct BpeMerge {
  TokenId left = -1;
  TokenId right = -1;
  TokenId merged = -1;
  std::int32_t rank = 0;  // lower merges first; equal ones from left to right
};

// `token_texts` [vocabulary]: empty where a token takes no part. They must outlive the index.
TokenIndex index_tokens(const std::vector<std::string>& token_texts);

// A merge's half in a file to the text of a token; nothing where it stands for none.
using SpellingToText = std::optional<std::string> (*)(std::string_view);

// `lines`: "left right", most frequent first. INVALID_ARGUMENT: a line that is malformed or names an unknown
// token.
Result<std::vector<BpeMerge>> listed_merges(const TokenIndex& tokens, const std::vector<std::string>& lines,
                                            SpellingToText text_of);

// Of any two tokens that make a third, those whose third scores highest first. `scores` [vocabulary].
std::vector<BpeMerge> scored_merges(const TokenIndex& tokens, const std::vector<double>& scores);

}  // namespace kvcrush
