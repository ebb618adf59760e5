#include "engine/loader/gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/core/readable.h"
#include "engine/loader/gguf_metadata.h"
#include "engine/loader/stop_tokens.h"

namespace kvcrush {
namespace {

// Pre-tokenizers of models whose words are looked up whole, and which begin texts with BOS where the file is
// silent.
constexpr std::array<std::string_view, 4> kWholeWordsFirst = {"llama3", "llama-v3", "llama-bpe", "tekken"};

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
  if (!metadata.has("tokenizer.ggml.token_type")) return;
  const GgufArray& kinds = metadata.integers("tokenizer.ggml.token_type");
  if (kinds.count != spec.tokens.size()) {
    return metadata.fail("metadata key 'tokenizer.ggml.token_type' has " + std::to_string(kinds.count) +
                         " entries; there are " + std::to_string(spec.tokens.size()) + " tokens");
  }
  for (std::size_t i = 0; i < spec.kinds.size(); ++i)
    spec.kinds[i] = token_kind(kinds.integer_at(i), metadata);
}

void read_byte_level(MetadataReader& metadata, TokenizerSpec& spec) {
  spec.pre_tokenizer = metadata.text_or("tokenizer.ggml.pre", "default");
  const GgufArray& merges = metadata.strings("tokenizer.ggml.merges");
  spec.merges.assign(merges.strings.begin(), merges.strings.end());
  for (const std::string& merge : spec.merges) {
    const std::size_t space = merge.find(' ');
    if (space == 0 || space == std::string::npos || space + 1 == merge.size()) {
      return metadata.fail("metadata key 'tokenizer.ggml.merges' holds " + in_quotes(merge) +
                           "; two tokens are expected");
    }
  }
  spec.whole_words_first = std::find(kWholeWordsFirst.begin(), kWholeWordsFirst.end(), spec.pre_tokenizer) !=
                           kWholeWordsFirst.end();
  // The family's own tokenizer.json says so; GGUF has no key for it.
  spec.normalize_nfc = spec.pre_tokenizer == "qwen2";
  if (metadata.flag_or("tokenizer.ggml.add_space_prefix", false)) spec.space_prefix = SpacePrefix::kMissing;
}

void read_sentencepiece(MetadataReader& metadata, TokenizerSpec& spec) {
  const GgufArray& scores = metadata.floats("tokenizer.ggml.scores");
  if (scores.count != spec.tokens.size()) {
    return metadata.fail("metadata key 'tokenizer.ggml.scores' has " + std::to_string(scores.count) +
                         " entries; there are " + std::to_string(spec.tokens.size()) + " tokens");
  }
  spec.scores.reserve(spec.tokens.size());
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) spec.scores.push_back(scores.float_at(i));
  spec.fuse_unknown = true;
  const bool prefix = metadata.flag_or("tokenizer.ggml.add_space_prefix", true);
  spec.space_prefix = prefix ? SpacePrefix::kAlways : SpacePrefix::kNone;
  spec.strip_first_space = prefix;
  for (const char* key :
       {"tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.treat_whitespace_as_suffix"}) {
    if (metadata.flag_or(key, false)) {
      metadata.fail("metadata key '" + std::string(key) + "' is true; supported: false");
    }
  }
  if (metadata.has("tokenizer.ggml.precompiled_charsmap")) {
    metadata.fail(
        "metadata key 'tokenizer.ggml.precompiled_charsmap' is set; normalisation by such a table is not "
        "supported");
  }
  // SentencePiece looks for user-defined tokens in text that is normalised.
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.kinds[i] == TokenKind::kUserDefined) spec.added_rules[static_cast<TokenId>(i)].normalized = true;
  }
}

void read_ids(MetadataReader& metadata, TokenizerSpec& spec) {
  const auto id = [&](const char* key) {
    const std::int64_t last = static_cast<std::int64_t>(spec.tokens.size()) - 1;
    return static_cast<TokenId>(metadata.integer_or(key, -1, 0, last));
  };
  spec.bos_id = id("tokenizer.ggml.bos_token_id");
  spec.eos_id = id("tokenizer.ggml.eos_token_id");
  spec.unknown_id = id("tokenizer.ggml.unknown_token_id");
  spec.padding_id = id("tokenizer.ggml.padding_token_id");
  if (spec.unknown_id < 0) {
    const auto unknown = std::find(spec.kinds.begin(), spec.kinds.end(), TokenKind::kUnknown);
    if (unknown != spec.kinds.end()) spec.unknown_id = static_cast<TokenId>(unknown - spec.kinds.begin());
  }
  const bool usual_bos = spec.model == "llama" || spec.whole_words_first;
  spec.add_bos = metadata.flag_or("tokenizer.ggml.add_bos_token", usual_bos && spec.bos_id >= 0);
  spec.add_eos = metadata.flag_or("tokenizer.ggml.add_eos_token", spec.model == "t5" && spec.eos_id >= 0);
  if (spec.add_bos && spec.bos_id < 0) {
    metadata.fail(
        "metadata key 'tokenizer.ggml.add_bos_token' is true without a 'tokenizer.ggml.bos_token_id'");
  }
  if (spec.add_eos && spec.eos_id < 0) {
    metadata.fail(
        "metadata key 'tokenizer.ggml.add_eos_token' is true without a 'tokenizer.ggml.eos_token_id'");
  }
}

}  // namespace

Result<TokenizerSpec> read_gguf_tokenizer(const GgufFile& file, int vocab_size, const std::string& source) {
  MetadataReader metadata(file, source);
  TokenizerSpec spec;
  spec.model = metadata.text("tokenizer.ggml.model");
  const bool pieces = spec.model == "llama" || spec.model == "t5";
  if (metadata.status().ok() && spec.model != "gpt2" && !pieces) {
    metadata.fail("metadata key 'tokenizer.ggml.model' is " + in_quotes(spec.model) +
                  "; supported: gpt2, llama, t5");
  }
  read_vocabulary(vocab_size, metadata, spec);
  // A vocabulary that was not read is not looked at either.
  if (!metadata.status().ok()) return metadata.status();
  if (pieces) {
    read_sentencepiece(metadata, spec);
  } else {
    read_byte_level(metadata, spec);
  }
  read_ids(metadata, spec);
  spec.chat_template = metadata.text_or("tokenizer.chat_template", "");
  const std::int64_t last = static_cast<std::int64_t>(spec.tokens.size()) - 1;
  const auto turn_end = [&](const char* key) {
    return static_cast<TokenId>(metadata.integer_or(key, -1, 0, last));
  };
  const TokenId turn_ends[] = {turn_end("tokenizer.ggml.eot_token_id"),
                               turn_end("tokenizer.ggml.eom_token_id")};
  if (!metadata.status().ok()) return metadata.status();
  KVCRUSH_RETURN_IF_ERROR(set_stop_ids(turn_ends, source, spec));
  return spec;
}

}  // namespace kvcrush
