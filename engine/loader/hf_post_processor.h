// Which special tokens a tokenizer.json puts around a text.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/core/status.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

// Sets add_bos with bos_id and add_eos with eos_id. `spec` has its vocabulary. INVALID_ARGUMENT naming the
// step or token that is not supported.
Status read_post_processor(const nlohmann::json& tokenizer, const std::string& source, TokenizerSpec& spec);

}  // namespace kvcrush
