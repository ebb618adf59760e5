// What the GGUF and the Hugging Face reader settle the same way once a TokenizerSpec's tokens are known.
#pragma once

#include <span>

#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

// Sets `spec.stop_ids` to eos_id, `declared` (each a valid id) and every control token with the spelling of a
// known end of turn, without duplicates and in that order.
void set_stop_ids(std::span<const TokenId> declared, TokenizerSpec& spec);

}  // namespace kvcrush
