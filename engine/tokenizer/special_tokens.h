// Finds special tokens in text: the leftmost, and the longest of those that begin together.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/core/types.h"

namespace kvcrush {

class SpecialTokens {
 public:
  struct Match {
    std::size_t begin = 0;  // byte offset
    std::size_t end = 0;
    TokenId id = -1;  // -1: nothing found, begin == end == text.size()
  };

  void add(std::string_view text, TokenId id);
  // The next match at or after `offset`. Time: at most the longest special token per byte of text.
  Match find(std::string_view text, std::size_t offset) const;

 private:
  struct Node {
    TokenId id = -1;
  };
  static std::uint64_t edge(std::size_t node, char byte) {
    return (static_cast<std::uint64_t>(node) << 8) | static_cast<std::uint8_t>(byte);
  }

  std::vector<Node> nodes_ = {Node{}};
  std::unordered_map<std::uint64_t, std::size_t> edges_;  // (node, byte) -> node
  std::array<bool, 256> begins_{};                        // some special token begins with this byte
};

}  // namespace kvcrush
