// A GGUF file: the container, and the model in it. Parts of a split model stand one behind the other, with
// "#PART" between them.
#include <string>
#include <string_view>
#include <vector>

#include "engine/loader/gguf.h"
#include "engine/loader/gguf_model.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/model_invariants.h"

namespace kvcrush::fuzz {
namespace {

void check_container(std::span<const std::byte> bytes) {
  const Result<GgufFile> file = parse_gguf(bytes, "fuzz.gguf");
  if (!file.ok()) return check_refusal(file.status());
  for (const GgufTensor& tensor : file->tensors) {
    if (!tensor.unsupported_type.empty()) {
      KVCRUSH_CHECK(tensor.view.bytes.empty());
      continue;
    }
    check_view(tensor.view, bytes);
    const auto offset = static_cast<std::size_t>(tensor.view.bytes.data() - bytes.data());
    KVCRUSH_CHECK(offset % file->alignment == 0);
  }
  for (const auto& [key, value] : file->metadata) {
    const auto* array = std::get_if<GgufArray>(&value);
    if (array == nullptr || !array->is_integer() || array->count == 0) continue;
    static_cast<void>(array->integer_at(array->count - 1));
  }
}

}  // namespace
}  // namespace kvcrush::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvcrush;
  const auto bytes = std::as_bytes(std::span(data, size));
  fuzz::check_container(bytes);
  fuzz::FuzzInput input(data, size);
  std::vector<GgufPart> parts;
  do {
    const std::string_view part = input.until("#PART");
    parts.push_back({std::as_bytes(std::span(part)), "fuzz-" + std::to_string(parts.size()) + ".gguf"});
  } while (!input.empty());
  const ModelReading reading = read_gguf_parts(parts);
  for (const Status& problem : reading.problems) fuzz::check_refusal(problem);
  if (reading.problems.empty()) fuzz::check_model(reading.model, bytes);
  return 0;
}
