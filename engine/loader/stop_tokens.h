// What the GGUF and the Hugging Face reader settle the same way once a TokenizerSpec's tokens are known.
#pragma once

#include <span>
#include <string>

#include "engine/core/status.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

// Sets `spec.stop_ids` to eos_id, `declared` (each a valid id) and every control token with the spelling of a
// known end of turn, without duplicates and in that order. INVALID_ARGUMENT naming `source`: there are more
// than anything that generates should have to look for.
Status set_stop_ids(std::span<const TokenId> declared, const std::string& source, TokenizerSpec& spec);

}  // namespace kvcrush
