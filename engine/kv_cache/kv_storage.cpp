#include "engine/kv_cache/kv_storage.h"

#include <ATen/ATen.h>

#include "engine/core/huge_pages.h"
#include "engine/core/status.h"

namespace kvcrush {

KvStorage::KvStorage(const KvLayout& layout, int num_blocks, at::Device device) : layout_(layout) {
  bytes_ = at::empty({num_blocks, layout.num_kv_heads, cpu::block_head_bytes(layout.head_dim)},
                     at::TensorOptions(at::kByte).device(device));
  if (device.is_cpu()) prefer_huge_pages(bytes_.data_ptr(), bytes_.nbytes());
}

cpu::KvPool KvStorage::cpu_pool() const {
  KVCRUSH_CHECK(bytes_.is_cpu());
  return pool();
}

cpu::KvPool KvStorage::pool() const {
  return {.base = static_cast<std::byte*>(bytes_.data_ptr()),
          .block_bytes = layout_.block_bytes(),
          .num_kv_heads = layout_.num_kv_heads,
          .head_dim = layout_.head_dim};
}

}  // namespace kvcrush
