// Text to tokens and back, and tokens of any kind through the incremental decoder.
#include <array>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/incremental_decoder.h"
#include "engine/tokenizer/nfc.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/sentencepiece_text.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/utf8.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/unit/tokenizer/small_pieces.h"
#include "tests/unit/tokenizer/small_vocabulary.h"

namespace kvcrush::fuzz {
namespace {

// Pre-tokenizers of byte-level models, then models of pieces.
constexpr std::array<const char*, 10> kFamilies = {"gpt-2",  "smollm", "llama-bpe",    "qwen2",      "tekken",
                                                   "gpt-4o", "llama",  "llama listed", "llama bare", "t5"};
constexpr std::size_t kNumByteLevel = 6;

TokenizerSpec byte_level_spec(const char* pre_tokenizer) {
  TokenizerSpec spec = test::small_spec(
      {{"a", "b"}, {"ab", "ab"}, {" ", " "}, {"\xC3", "\xA4"}, {"\xF0", "\x9F"}, {"1", "2"}, {"ab", " "}},
      {"<|im_end|>", "<|im_", "</s>", " x"}, pre_tokenizer);
  spec.tokens.emplace_back("<tool>");
  spec.kinds.push_back(TokenKind::kUserDefined);
  return spec;
}

TokenizerSpec pieces_spec(std::string_view family) {
  const std::vector<std::string> pieces = {
      "ab", "abab", "\u2581\u2581", "\u2581ab", "b\u2581", "\u2581", "a", "b", "1", "\u00E4", "\U0001F600"};
  TokenizerSpec spec =
      test::small_pieces(pieces, family == "llama bare" ? SpacePrefix::kNone : SpacePrefix::kAlways);
  test::add_token(spec, "<|im_end|>", TokenKind::kControl);
  // Found in raw text it would begin a new stretch, with a space in front.
  test::add_token(spec, "\n\n", TokenKind::kUserDefined, {.normalized = family != "llama bare"});
  test::add_token(spec, "\u2581\u2581\u2581", TokenKind::kUserDefined, {.normalized = true});
  test::add_token(spec, "<tool>", TokenKind::kUserDefined);
  if (family == "t5") spec.model = "t5";
  if (family == "llama listed") {
    spec.scores.clear();
    spec.merges = {"a b", "\u2581 \u2581", "ab ab", "\u2581 ab"};
  }
  return spec;
}

// Every byte has a token, so that every text has tokens.
std::shared_ptr<const Tokenizer> tokenizer_of(std::size_t family) {
  static std::map<std::size_t, std::shared_ptr<const Tokenizer>> made;
  std::shared_ptr<const Tokenizer>& tokenizer = made[family];
  if (tokenizer == nullptr) {
    const char* name = kFamilies[family];
    tokenizer = Tokenizer::create(family < kNumByteLevel ? byte_level_spec(name) : pieces_spec(name)).value();
  }
  return tokenizer;
}

// What decoding the tokens of `text` gives.
std::string as_decoded(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.spec().model == "gpt2" ? std::string(text) : spaces_from_escapes(text);
}

void check_normal_form(std::string_view text) {
  const auto composed = compose_nfc(text);
  if (!composed) return;
  KVCRUSH_CHECK(!utf8::first_error(*composed));
  KVCRUSH_CHECK(compose_nfc(*composed).value_or(*composed) == *composed);
}

void check_pre_tokenizer(std::size_t family, std::string_view text) {
  const auto pre_tokenizer = PreTokenizer::create(kFamilies[family]).value();
  std::string joined;
  KVCRUSH_CHECK(pre_tokenizer
                    ->split(text,
                            [&joined](std::string_view word) {
                              KVCRUSH_CHECK(!word.empty());
                              joined += word;
                            })
                    .ok());
  KVCRUSH_CHECK(joined == text);
}

void check_encoding(const Tokenizer& tokenizer, std::string_view text, std::size_t cut) {
  const auto ids = tokenizer.encode(text);
  const auto error = utf8::first_error(text);
  KVCRUSH_CHECK(ids.ok() == !error);
  if (error) {
    KVCRUSH_CHECK(ids.status().code() == StatusCode::kInvalidArgument);
    KVCRUSH_CHECK(ids.status().message().ends_with(" " + std::to_string(*error)));
    return;
  }
  const std::string decoded = as_decoded(tokenizer, text);
  // With a space in front of every stretch, markers have one behind them.
  if (tokenizer.spec().space_prefix == SpacePrefix::kNone)
    KVCRUSH_CHECK(tokenizer.decode(*ids, false) == decoded);

  EncodeOptions plain;
  plain.parse_special_tokens = false;
  const auto plain_ids = tokenizer.encode(text, plain);
  KVCRUSH_CHECK(plain_ids.ok() && tokenizer.decode(*plain_ids, true) == decoded);
  for (const TokenId id : *plain_ids) KVCRUSH_CHECK(!tokenizer.is_special(id));

  // A message may be cut anywhere: its special tokens stay text.
  const std::vector<PromptPiece> pieces = {{std::string(text.substr(0, cut)), true},
                                           {std::string(text.substr(cut)), true}};
  const auto piece_ids = tokenizer.encode(std::span<const PromptPiece>(pieces));
  KVCRUSH_CHECK(piece_ids.ok() && *piece_ids == *plain_ids);
  const std::vector<PromptPiece> own = {{std::string(text), false}};
  const auto own_ids = tokenizer.encode(std::span<const PromptPiece>(own));
  KVCRUSH_CHECK(own_ids.ok() && *own_ids == *ids);
}

void check_repair(std::string_view bytes) {
  const std::string text = replace_broken_utf8(bytes);
  KVCRUSH_CHECK(!utf8::first_error(text));
  KVCRUSH_CHECK(replace_broken_utf8(text) == text);
  if (!utf8::first_error(bytes)) KVCRUSH_CHECK(text == bytes);
  KVCRUSH_CHECK(utf8::count(text) <= bytes.size());
}

// Each byte names a token: text of any bytes, in pieces of any length.
void check_decoder(const std::shared_ptr<const Tokenizer>& tokenizer, const std::vector<std::string>& stops,
                   bool skip_special_tokens, std::string_view bytes) {
  std::vector<TokenId> ids;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    // 0xFF: the next byte counts from the end, where merges and special tokens are.
    const bool from_end = static_cast<std::uint8_t>(bytes[i]) == 0xFF && i + 1 < bytes.size();
    const auto number = static_cast<std::uint8_t>(bytes[from_end ? ++i : i]);
    ids.push_back(from_end ? tokenizer->vocab_size() - 1 - number % 16 : number);
  }
  const std::string whole = replace_broken_utf8(tokenizer->decode(ids, skip_special_tokens));
  IncrementalDecoder decoder(tokenizer, stops, skip_special_tokens, /*begins_text=*/true);
  std::string text;
  for (const TokenId id : ids) {
    const std::string part = decoder.push(id);
    KVCRUSH_CHECK(!utf8::first_error(part));
    text += part;
  }
  text += decoder.flush();
  KVCRUSH_CHECK(whole.starts_with(text));
  if (decoder.stop_match()) {
    KVCRUSH_CHECK(std::string_view(whole).substr(text.size()).starts_with(*decoder.stop_match()));
  } else {
    KVCRUSH_CHECK(text == whole);
  }
}

}  // namespace
}  // namespace kvcrush::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvcrush;
  fuzz::FuzzInput input(data, size);
  const std::size_t family = input.below(fuzz::kFamilies.size());
  const bool skip_special_tokens = input.flag();
  const std::size_t cut = input.below(256);
  std::vector<std::string> stops;
  for (std::size_t left = input.below(4); left > 0; --left) stops.push_back(input.text().substr(0, 16));
  const std::string_view text = input.rest();
  const auto tokenizer = fuzz::tokenizer_of(family);
  fuzz::check_encoding(*tokenizer, text, std::min(cut, text.size()));
  fuzz::check_repair(text);
  if (!utf8::first_error(text)) {
    if (family < fuzz::kNumByteLevel) fuzz::check_pre_tokenizer(family, text);
    fuzz::check_normal_form(text);
  }
  fuzz::check_decoder(tokenizer, stops, skip_special_tokens, text);
  return 0;
}
