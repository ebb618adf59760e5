#include "engine/kv_cache/kv_storage.h"

#include <ATen/ATen.h>

namespace kvcrush {

Result<cpu::KvElement> parse_kv_dtype(const std::string& name) {
  if (name == "f32") return cpu::KvElement::kF32;
  if (name == "bf16") return cpu::KvElement::kBF16;
  if (name == "f16") return cpu::KvElement::kF16;
  return invalid_argument("kv_dtype is '" + name + "'; allowed: f32, bf16, f16");
}

namespace {
at::ScalarType scalar_type(cpu::KvElement element) {
  switch (element) {
    case cpu::KvElement::kBF16:
      return at::kBFloat16;
    case cpu::KvElement::kF16:
      return at::kHalf;
    case cpu::KvElement::kF32:
      break;
  }
  return at::kFloat;
}
}  // namespace

KvStorage::KvStorage(const KvLayout& layout, int num_blocks, at::Device device) : layout_(layout) {
  bytes_ = at::empty({num_blocks, layout.block_bytes()}, at::TensorOptions(at::kByte).device(device));
  const std::int64_t heads = layout.num_kv_heads;
  const std::int64_t dim = layout.head_dim;
  const std::int64_t half = heads * dim * cpu::kBlockTokens;
  const at::Tensor elements = bytes_.view(scalar_type(layout.element));
  keys_ = elements.narrow(1, 0, half).unflatten(1, {heads, dim, cpu::kBlockTokens});
  values_ = elements.narrow(1, half, half).unflatten(1, {heads, cpu::kBlockTokens, dim});
}

cpu::KvPool KvStorage::cpu_pool() const {
  KVCRUSH_CHECK(bytes_.is_cpu());
  return {.base = static_cast<std::byte*>(bytes_.data_ptr()),
          .block_bytes = layout_.block_bytes(),
          .num_kv_heads = layout_.num_kv_heads,
          .head_dim = layout_.head_dim,
          .element = layout_.element};
}

}  // namespace kvcrush
