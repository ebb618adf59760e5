// What transformers' files add to a tokenizer.model.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/core/status.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

// Parsed files beside tokenizer.model with their paths; empty objects where a file is absent.
struct SentencePieceSettings {
  const nlohmann::json& tokenizer_config;  // tokenizer_config.json
  std::string tokenizer_config_path;
  const nlohmann::json& added_tokens;  // added_tokens.json, older
  std::string added_tokens_path;
};

// Reads added tokens, 'legacy' and 'add_prefix_space', and says which tokens are added around texts where the
// files are silent: what transformers' classes for such files do. Errors: INVALID_ARGUMENT.
Status add_hf_settings(const SentencePieceSettings& settings, int vocab_size, TokenizerSpec& spec);

}  // namespace kvcrush
