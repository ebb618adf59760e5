// Building a vocabulary token by token, as Hugging Face's files name them.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/core/status.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

// Ids may leave holes, of a bounded number: a few tokens must not ask for memory of millions. `vocab_size`:
// rows of the embedding.
std::int64_t token_id_limit(std::size_t num_tokens, int vocab_size);

// Errors: INVALID_ARGUMENT: the id is not below `id_limit`, or another token has it.
Status place_token(std::int64_t id, const std::string& token, TokenKind kind, std::int64_t id_limit,
                   const std::string& source, TokenizerSpec& spec);

// `token`: an object with content, special, lstrip, rstrip, normalized, single_word.
Status place_added_token(std::int64_t id, const nlohmann::json& token, std::int64_t id_limit,
                         const std::string& source, TokenizerSpec& spec);

// Ids without a token get a name that text never spells as a whole.
void name_holes(TokenizerSpec& spec);

}  // namespace kvcrush
