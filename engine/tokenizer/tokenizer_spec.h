// A tokenizer as read from a model file, before it is compiled. Filled by the loader (GGUF metadata,
// tokenizer.json or tokenizer.model).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/core/types.h"

namespace kvcrush {

enum class TokenKind { kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

// Where a space goes in front of text before it is tokenised. A stretch is what lies between special tokens.
enum class SpacePrefix {
  kNone,
  kStartOfText,  // the first stretch, if it begins the text and not with a space
  kMissing,      // every stretch that does not begin with a space
  kAlways,       // every stretch
};

// How a token that is found whole (kControl, kUnknown, kUserDefined) is found in text.
struct AddedTokenRules {
  bool strip_left = false;  // takes the white space before it along
  bool strip_right = false;
  bool normalized = false;  // user-defined white space is looked for in text that is normalised already
};

struct TokenizerSpec {
  // GGUF's names: "gpt2" byte-level BPE, "llama" SentencePiece BPE, "t5" SentencePiece unigram. Normal tokens
  // are spelled in GPT-2's byte-to-unicode alphabet by the first, with U+2581 for spaces by the others.
  std::string model;
  std::string pre_tokenizer;  // byte-level only, GGUF's name: "smollm", "gpt-2", "llama-bpe", "qwen2", ...
  std::vector<std::string> tokens;  // index = TokenId
  std::vector<TokenKind> kinds;     // [tokens.size()]; with one kByte token there must be all 256
  std::vector<std::string> merges;  // BPE: "left right", most frequent first
  // [tokens.size()], SentencePiece: log-probabilities of a unigram model; of BPE without a list of merges the
  // tokens of highest score are merged first.
  std::vector<double> scores;
  std::map<TokenId, AddedTokenRules> added_rules;  // of tokens whose rules are not the default
  bool whole_words_first = false;                  // byte-level: a word that is itself a token is not merged
  bool fuse_unknown = false;     // SentencePiece: neighbouring unknown characters are one unknown token
  bool split_at_spaces = false;  // SentencePiece: no token of more than one space, nor with a space inside
  bool normalize_nfc = false;
  SpacePrefix space_prefix = SpacePrefix::kNone;
  bool strip_first_space = false;  // a decoded text loses the space that it begins with
  TokenId bos_id = -1;             // -1: none
  TokenId eos_id = -1;
  TokenId unknown_id = -1;
  TokenId padding_id = -1;
  std::vector<TokenId> stop_ids;  // every id that ends a turn (eos, eot, eom), without duplicates
  bool add_bos = false;
  bool add_eos = false;
  std::string chat_template;  // Jinja source; empty: none
};

}  // namespace kvcrush
