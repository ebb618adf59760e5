// A tokenizer of 256 bytes and a few named tokens, and a chat template, for tests of the server.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/request_mapper.h"

namespace kvcrush::test {

// Token ids 0..255 are the bytes themselves; then:
inline constexpr TokenId kEndToken = 256;   // "<|end|>", special
inline constexpr TokenId kPageToken = 257;  // kPageBytes times 'x'
inline constexpr int kVocabSize = 258;
inline constexpr int kPageBytes = 4096;

std::shared_ptr<const Tokenizer> byte_tokenizer();
std::shared_ptr<const ChatTemplate> plain_template();  // "role: content\n" per message

// Context of 100 tokens, pool of 50 tokens.
MapperContext mapper_context();

inline std::vector<TokenId> bytes_of(std::string_view text) {
  std::vector<TokenId> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

}  // namespace kvcrush::test
