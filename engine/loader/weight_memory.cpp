#include "engine/loader/weight_memory.h"

#include "engine/kernels/cpu/quant_format.h"
#include "engine/loader/weight_type.h"

namespace kvcrush {
namespace {

constexpr std::uint64_t kFloatBytes = 4;

std::uint64_t packed_bytes(const WeightView& view) {
  const auto ceil_div = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  cpu::QuantPanels panels;
  panels.is_int4 = has_coded_blocks(view.dtype);
  const std::int64_t num_groups =
      ceil_div(view.shape[0], cpu::kQuantPanel) * ceil_div(view.shape[1], cpu::kQuantGroup);
  return static_cast<std::uint64_t>(num_groups * (panels.code_bytes() + panels.side_bytes()));
}

}  // namespace

std::uint64_t kept_weight_bytes(const ModelFile& model) {
  std::uint64_t bytes = 0;
  for (const auto& [name, view] : model.weights) {
    if (name == "embed_tokens" && !model.config.tied_embeddings) continue;
    const bool quantised = view.shape.size() == 2 && weight_block(view.dtype).num_elements > 1;
    bytes += quantised ? packed_bytes(view) : kFloatBytes * static_cast<std::uint64_t>(view.num_elements());
  }
  return bytes;
}

}  // namespace kvcrush
