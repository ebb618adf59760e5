// A tokenizer as read from a model file, before it is compiled. Filled by the loader (GGUF metadata or
// tokenizer.json).
#pragma once

#include <string>
#include <vector>

#include "engine/core/types.h"

namespace kvcrush {

enum class TokenKind { kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct TokenizerSpec {
  std::string model;                // "gpt2": byte-level BPE (the only one so far)
  std::string pre_tokenizer;        // GGUF name: "smollm", "gpt-2", "llama-bpe", "qwen2", ...
  std::vector<std::string> tokens;  // index = TokenId; normal tokens in GPT-2's byte-to-unicode spelling
  std::vector<TokenKind> kinds;     // [tokens.size()]
  std::vector<std::string> merges;  // "left right", most frequent first
  TokenId bos_id = -1;              // -1: none
  TokenId eos_id = -1;
  TokenId unknown_id = -1;
  TokenId padding_id = -1;
  std::vector<TokenId> stop_ids;  // every id that ends a turn (eos, eot, eom), without duplicates
  bool add_bos = false;
  bool add_space_prefix = false;
  std::string chat_template;  // Jinja source; empty: none
};

}  // namespace kvcrush
