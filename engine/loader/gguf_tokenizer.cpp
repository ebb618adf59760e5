#include "engine/loader/gguf_tokenizer.h"

#include <cstddef>
#include <cstdint>

#include "engine/core/readable.h"
#include "engine/loader/gguf_metadata.h"
#include "engine/loader/stop_tokens.h"

namespace kvcrush {
namespace {

TokenKind token_kind(std::int64_t stored, MetadataReader& metadata) {
  switch (stored) {
    case 1:
      return TokenKind::kNormal;
    case 2:
      return TokenKind::kUnknown;
    case 3:
      return TokenKind::kControl;
    case 4:
      return TokenKind::kUserDefined;
    case 5:
      return TokenKind::kUnused;
    case 6:
      return TokenKind::kByte;
    default:
      break;
  }
  metadata.fail("metadata key 'tokenizer.ggml.token_type' holds " + std::to_string(stored) +
                "; known: 1 to 6");
  return TokenKind::kNormal;
}

void read_vocabulary(int vocab_size, MetadataReader& metadata, TokenizerSpec& spec) {
  const GgufArray& tokens = metadata.strings("tokenizer.ggml.tokens");
  if (static_cast<std::int64_t>(tokens.count) > vocab_size) {
    return metadata.fail("metadata key 'tokenizer.ggml.tokens' has " + std::to_string(tokens.count) +
                         " entries; the vocabulary size is " + std::to_string(vocab_size));
  }
  spec.tokens.assign(tokens.strings.begin(), tokens.strings.end());
  spec.kinds.assign(spec.tokens.size(), TokenKind::kNormal);
  if (metadata.has("tokenizer.ggml.token_type")) {
    const GgufArray& kinds = metadata.integers("tokenizer.ggml.token_type");
    if (kinds.count != spec.tokens.size()) {
      return metadata.fail("metadata key 'tokenizer.ggml.token_type' has " + std::to_string(kinds.count) +
                           " entries; there are " + std::to_string(spec.tokens.size()) + " tokens");
    }
    for (std::size_t i = 0; i < spec.kinds.size(); ++i)
      spec.kinds[i] = token_kind(kinds.integer_at(i), metadata);
  }
  const GgufArray& merges = metadata.strings("tokenizer.ggml.merges");
  spec.merges.assign(merges.strings.begin(), merges.strings.end());
  for (const std::string& merge : spec.merges) {
    const std::size_t space = merge.find(' ');
    if (space == 0 || space == std::string::npos || space + 1 == merge.size()) {
      return metadata.fail("metadata key 'tokenizer.ggml.merges' holds " + in_quotes(merge) +
                           "; two tokens are expected");
    }
  }
}

}  // namespace

Result<TokenizerSpec> read_gguf_tokenizer(const GgufFile& file, int vocab_size, const std::string& source) {
  MetadataReader metadata(file, source);
  TokenizerSpec spec;
  spec.model = metadata.text("tokenizer.ggml.model");
  if (metadata.status().ok() && spec.model != "gpt2") {
    metadata.fail("metadata key 'tokenizer.ggml.model' is " + in_quotes(spec.model) + "; supported: gpt2");
  }
  spec.pre_tokenizer = metadata.text_or("tokenizer.ggml.pre", "default");
  read_vocabulary(vocab_size, metadata, spec);
  const auto id = [&](const char* key) {
    const std::int64_t last = static_cast<std::int64_t>(spec.tokens.size()) - 1;
    return static_cast<TokenId>(metadata.integer_or(key, -1, 0, last));
  };
  spec.bos_id = id("tokenizer.ggml.bos_token_id");
  spec.eos_id = id("tokenizer.ggml.eos_token_id");
  spec.unknown_id = id("tokenizer.ggml.unknown_token_id");
  spec.padding_id = id("tokenizer.ggml.padding_token_id");
  const TokenId turn_ends[] = {id("tokenizer.ggml.eot_token_id"), id("tokenizer.ggml.eom_token_id")};
  spec.add_bos = metadata.flag_or("tokenizer.ggml.add_bos_token", false);
  spec.add_space_prefix = metadata.flag_or("tokenizer.ggml.add_space_prefix", false);
  spec.chat_template = metadata.text_or("tokenizer.chat_template", "");
  if (metadata.status().ok() && spec.add_bos && spec.bos_id < 0) {
    metadata.fail(
        "metadata key 'tokenizer.ggml.add_bos_token' is true without a 'tokenizer.ggml.bos_token_id'");
  }
  if (!metadata.status().ok()) return metadata.status();
  KVCRUSH_RETURN_IF_ERROR(set_stop_ids(turn_ends, source, spec));
  return spec;
}

}  // namespace kvcrush
