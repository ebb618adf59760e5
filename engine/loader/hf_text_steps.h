// What a tokenizer.json does to text before and after its model.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/core/status.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

// Reads normalizer, pre_tokenizer and decoder: normalize_nfc, space_prefix, strip_first_space,
// split_at_spaces, pre_tokenizer, and `model`, "gpt2" where text becomes bytes, else "llama".
// INVALID_ARGUMENT naming the step that is not known.
Status read_text_steps(const nlohmann::json& tokenizer, const std::string& source, TokenizerSpec& spec);

}  // namespace kvcrush
