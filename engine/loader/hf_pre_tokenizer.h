// Which of the pre-tokenizers known by GGUF's names a tokenizer.json describes.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/core/status.h"

namespace kvcrush {

struct PreTokenizer {
  std::string name;  // "gpt-2", "smollm", "llama-bpe" or "qwen2"
  bool add_space_prefix = false;
};

// `pre_tokenizer` is that field of tokenizer.json. INVALID_ARGUMENT naming the step or regex that is not
// known.
Result<PreTokenizer> recognise_pre_tokenizer(const nlohmann::json& pre_tokenizer, const std::string& source);

}  // namespace kvcrush
