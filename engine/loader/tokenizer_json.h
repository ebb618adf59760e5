// The vocabulary of a Hugging Face tokenizer.json.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/core/status.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

// Fills the vocabulary, how text becomes tokens, and what is added around it, from tokenizer.json alone; ids
// that it does not name stay -1. `vocab_size`: rows of the embedding. INVALID_ARGUMENT names what is not
// supported or not valid.
Result<TokenizerSpec> parse_tokenizer_json(const nlohmann::json& tokenizer, int vocab_size,
                                           const std::string& source);

// Tokens are configured as strings or as objects with the string in "content"; empty: neither, or null.
std::string token_text(const nlohmann::json* token);

}  // namespace kvcrush
