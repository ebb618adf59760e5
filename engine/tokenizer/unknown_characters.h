// What stands for a character that a SentencePiece vocabulary has no token for.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/core/types.h"

namespace kvcrush {

struct UnknownCharacters {
  std::array<TokenId, 256> byte_ids = {};  // all or none (-1)
  TokenId unknown_id = -1;                 // without those; -1: the character is left out
  bool fuse = false;                       // a run of them is one unknown token

  UnknownCharacters() { byte_ids.fill(-1); }

  // `after_unknown`: the character before was one too.
  void append(std::string_view character, bool after_unknown, std::vector<TokenId>& out) const {
    if (byte_ids[0] >= 0) {
      for (const char byte : character) out.push_back(byte_ids[static_cast<std::uint8_t>(byte)]);
    } else if (unknown_id >= 0 && !(after_unknown && fuse)) {
      out.push_back(unknown_id);
    }
  }
};

}  // namespace kvcrush
