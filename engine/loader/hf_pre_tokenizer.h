// Which of the pre-tokenizers known by GGUF's names a tokenizer.json describes, or how it treats spaces.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/core/status.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

// Reads field 'pre_tokenizer' of `tokenizer`. Of byte-level text: model "gpt2", pre_tokenizer, space_prefix;
// else model "llama", space_prefix, split_at_spaces. `escapes_spaces`: the normalizer makes them U+2581.
// INVALID_ARGUMENT naming the step or regex that is not known.
Status recognise_pre_tokenizer(const nlohmann::json& tokenizer, bool escapes_spaces,
                               const std::string& source, TokenizerSpec& spec);

}  // namespace kvcrush
