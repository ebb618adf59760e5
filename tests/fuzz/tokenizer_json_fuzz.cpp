// A Hugging Face tokenizer.json.
#include "engine/loader/json_fields.h"
#include "engine/loader/tokenizer_json.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/model_invariants.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvcrush;
  constexpr int kVocabSize = 512;
  const Result<nlohmann::json> json =
      parse_json_object({reinterpret_cast<const char*>(data), size}, "tokenizer.json");
  if (!json.ok()) {
    fuzz::check_refusal(json.status());
    return 0;
  }
  Result<TokenizerSpec> spec = parse_tokenizer_json(*json, kVocabSize, "tokenizer.json");
  if (!spec.ok()) {
    fuzz::check_refusal(spec.status());
    return 0;
  }
  KVCRUSH_CHECK(spec->tokens.size() <= kVocabSize);
  fuzz::check_tokenizer(*spec);
  return 0;
}
