// The tokenizer of a Hugging Face directory as a TokenizerSpec.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/core/status.h"
#include "engine/model/model_config.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

// Reads tokenizer.json or, where there is none, tokenizer.model with added_tokens.json;
// tokenizer_config.json, generation_config.json and chat_template.jinja of `directory`. `model_json` is the
// parsed config.json, whose token ids count where the tokenizer's files are silent. Errors: INVALID_ARGUMENT:
// a model, pre-tokenizer, normaliser or id that is not supported or not valid, named.
Result<TokenizerSpec> read_hf_tokenizer(const std::string& directory, const nlohmann::json& model_json,
                                        const ModelConfig& config);

}  // namespace kvcrush
