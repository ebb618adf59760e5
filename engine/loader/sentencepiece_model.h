// SentencePiece's own model file, tokenizer.model: a protobuf message, of which a tokenizer needs a few
// fields.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "engine/core/status.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

// Fills model, vocabulary, scores, ids and how spaces are put in front of text; add_bos and the rest are
// named by files beside it. `vocab_size`: rows of the embedding, which the vocabulary must not exceed.
// INVALID_ARGUMENT: a message that is broken, or a model type or normalisation that is not supported, named.
Result<TokenizerSpec> parse_sentencepiece_model(std::span<const std::byte> bytes, int vocab_size,
                                                const std::string& source);

}  // namespace kvcrush
