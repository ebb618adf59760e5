// A safetensors file: header length, JSON header, tensor data.
#include "engine/loader/safetensors.h"

#include <algorithm>

#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/model_invariants.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvcrush;
  const auto bytes = std::as_bytes(std::span(data, size));
  Result<std::vector<NamedWeight>> weights = parse_safetensors(bytes, "fuzz.safetensors");
  if (!weights.ok()) {
    fuzz::check_refusal(weights.status());
    return 0;
  }
  for (const NamedWeight& weight : *weights) fuzz::check_view(weight.view, bytes);
  std::sort(weights->begin(), weights->end(), [](const NamedWeight& left, const NamedWeight& right) {
    return left.view.bytes.data() < right.view.bytes.data();
  });
  for (std::size_t i = 1; i < weights->size(); ++i) {
    const auto before = (*weights)[i - 1].view.bytes;
    KVCRUSH_CHECK(before.data() + before.size() <= (*weights)[i].view.bytes.data());
  }
  return 0;
}
