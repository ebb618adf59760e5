// The tokenizer in a GGUF file's metadata.
#pragma once

#include <string>

#include "engine/core/status.h"
#include "engine/loader/gguf.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

// `vocab_size`: rows of the embedding, which the vocabulary must not exceed. `source` names the file in
// errors. Errors: INVALID_ARGUMENT.
Result<TokenizerSpec> read_gguf_tokenizer(const GgufFile& file, int vocab_size, const std::string& source);

}  // namespace kvcrush
