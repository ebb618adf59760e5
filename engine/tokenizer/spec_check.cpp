#include "engine/tokenizer/spec_check.h"

#include <array>
#include <cmath>
#include <string>
#include <string_view>

#include "engine/core/readable.h"
#include "engine/tokenizer/sentencepiece_text.h"

namespace kvcrush {
namespace {

constexpr std::size_t kMaxTokenBytes = std::size_t{1} << 16;

Status check_id(std::string_view field, TokenId id, std::size_t num_tokens) {
  if (id >= -1 && id < static_cast<std::int64_t>(num_tokens)) return {};
  return invalid_argument("tokenizer " + std::string(field) + " is " + std::to_string(id) +
                          "; must be -1 (none) or below the vocabulary's size, " +
                          std::to_string(num_tokens));
}

Status check_ids(const TokenizerSpec& spec) {
  const std::size_t num_tokens = spec.tokens.size();
  KVCRUSH_RETURN_IF_ERROR(check_id("bos_id", spec.bos_id, num_tokens));
  KVCRUSH_RETURN_IF_ERROR(check_id("eos_id", spec.eos_id, num_tokens));
  KVCRUSH_RETURN_IF_ERROR(check_id("unknown_id", spec.unknown_id, num_tokens));
  KVCRUSH_RETURN_IF_ERROR(check_id("padding_id", spec.padding_id, num_tokens));
  for (const TokenId id : spec.stop_ids) KVCRUSH_RETURN_IF_ERROR(check_id("stop id", id, num_tokens));
  for (const auto& [id, rules] : spec.added_rules) {
    KVCRUSH_RETURN_IF_ERROR(check_id("added token's id", id, num_tokens));
  }
  if (spec.add_bos && spec.bos_id < 0)
    return invalid_argument("tokenizer add_bos is set but there is no bos_id");
  if (spec.add_eos && spec.eos_id < 0)
    return invalid_argument("tokenizer add_eos is set but there is no eos_id");
  return {};
}

Status check_scores(const TokenizerSpec& spec) {
  if (spec.scores.empty() && spec.model == "llama") return {};
  if (spec.scores.size() != spec.tokens.size()) {
    return invalid_argument("tokenizer has " + std::to_string(spec.tokens.size()) + " tokens but " +
                            std::to_string(spec.scores.size()) + " scores; the numbers must be equal");
  }
  for (std::size_t i = 0; i < spec.scores.size(); ++i) {
    if (std::isfinite(spec.scores[i])) continue;
    return invalid_argument("tokenizer score of token " + std::to_string(i) + " is not a finite number");
  }
  return {};
}

Status check_bytes(const TokenizerSpec& spec) {
  std::array<bool, 256> found = {};
  bool any = false;
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.kinds[i] != TokenKind::kByte) continue;
    const auto byte = byte_of_spelling(spec.tokens[i]);
    if (!byte) {
      return invalid_argument("tokenizer token " + std::to_string(i) + " is " + in_quotes(spec.tokens[i]) +
                              "; a byte's token is spelled '<0x00>' to '<0xFF>'");
    }
    found[static_cast<std::uint8_t>(byte->front())] = any = true;
  }
  for (std::size_t byte = 0; any && byte < found.size(); ++byte) {
    if (found[byte]) continue;
    return invalid_argument("tokenizer has tokens of some bytes but none of byte " + std::to_string(byte) +
                            "; all 256 are needed, or none");
  }
  if (any || spec.unknown_id >= 0) return {};
  return invalid_argument(
      "tokenizer has neither tokens of bytes nor an unknown token for what it does not know");
}

}  // namespace

Status check_spec(const TokenizerSpec& spec) {
  const std::size_t num_tokens = spec.tokens.size();
  if (spec.model != "gpt2" && spec.model != "llama" && spec.model != "t5") {
    return invalid_argument(
        "unknown tokenizer model " + in_quotes(spec.model) +
        "; known: gpt2 (byte-level BPE), llama (SentencePiece BPE), t5 (SentencePiece unigram)");
  }
  if (num_tokens == 0) return invalid_argument("tokenizer has no tokens");
  for (std::size_t i = 0; i < num_tokens; ++i) {
    if (spec.tokens[i].size() <= kMaxTokenBytes) continue;
    return invalid_argument("tokenizer token " + std::to_string(i) + " has " +
                            std::to_string(spec.tokens[i].size()) + " bytes; at most " +
                            std::to_string(kMaxTokenBytes) + " are allowed");
  }
  if (spec.kinds.size() != num_tokens) {
    return invalid_argument("tokenizer has " + std::to_string(num_tokens) + " tokens but " +
                            std::to_string(spec.kinds.size()) + " token kinds; the numbers must be equal");
  }
  KVCRUSH_RETURN_IF_ERROR(check_ids(spec));
  if (spec.model == "gpt2") return {};
  KVCRUSH_RETURN_IF_ERROR(check_scores(spec));
  return check_bytes(spec);
}

}  // namespace kvcrush
