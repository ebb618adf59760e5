#include "engine/tokenizer/special_tokens.h"

namespace kvcrush {

void SpecialTokens::add(std::string_view text, TokenId id) {
  if (text.empty()) return;
  begins_[static_cast<std::uint8_t>(text[0])] = true;
  std::size_t node = 0;
  for (const char byte : text) {
    const auto [it, inserted] = edges_.try_emplace(edge(node, byte), nodes_.size());
    if (inserted) nodes_.push_back({});
    node = it->second;
  }
  if (nodes_[node].id < 0) nodes_[node].id = id;
}

SpecialTokens::Match SpecialTokens::find(std::string_view text, std::size_t offset) const {
  for (std::size_t begin = offset; begin < text.size(); ++begin) {
    if (!begins_[static_cast<std::uint8_t>(text[begin])]) continue;
    Match match;
    std::size_t node = 0;
    for (std::size_t i = begin; i < text.size(); ++i) {
      const auto it = edges_.find(edge(node, text[i]));
      if (it == edges_.end()) break;
      node = it->second;
      if (nodes_[node].id >= 0) match = {begin, i + 1, nodes_[node].id};
    }
    if (match.id >= 0) return match;
  }
  return {text.size(), text.size(), -1};
}

}  // namespace kvcrush
