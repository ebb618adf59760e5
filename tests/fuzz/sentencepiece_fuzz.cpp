// SentencePiece's tokenizer.model.
#include "engine/loader/sentencepiece_model.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/model_invariants.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvcrush;
  constexpr int kVocabSize = 512;
  const auto bytes = std::as_bytes(std::span(data, size));
  const Result<TokenizerSpec> spec = parse_sentencepiece_model(bytes, kVocabSize, "tokenizer.model");
  if (!spec.ok()) {
    fuzz::check_refusal(spec.status());
    return 0;
  }
  KVCRUSH_CHECK(spec->tokens.size() <= kVocabSize && spec->scores.size() == spec->tokens.size());
  fuzz::check_tokenizer(*spec);
  return 0;
}
