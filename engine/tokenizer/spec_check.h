// Whether what a model file says makes a tokenizer.
#pragma once

#include "engine/core/status.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

// INVALID_ARGUMENT naming what does not fit together.
Status check_spec(const TokenizerSpec& spec);

}  // namespace kvcrush
