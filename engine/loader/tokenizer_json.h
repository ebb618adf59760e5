// The vocabulary of a Hugging Face tokenizer.json.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/core/status.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

// Fills vocabulary, merges, kinds, pre-tokenizer and add_bos from tokenizer.json alone; ids stay -1.
Result<TokenizerSpec> parse_tokenizer_json(const nlohmann::json& tokenizer, int vocab_size,
                                           const std::string& source);

// Tokens are configured as strings or as objects with the string in "content"; empty: neither, or null.
std::string token_text(const nlohmann::json* token);

}  // namespace kvcrush
