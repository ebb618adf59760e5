// The bytes behind the block pool: one allocation on one device, [num_blocks, block_bytes]. Block b holds
//   K [num_kv_heads, head_dim, block_size]  then  V [num_kv_heads, block_size, head_dim]
// of one layer, in the storage dtype. Memory is not cleared: no kernel reads a slot past a sequence's cached
// length.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "engine/core/status.h"
#include "engine/kernels/cpu/cpu_kernels.h"
#include "engine/model/model_config.h"

namespace kvcrush {

struct KvLayout {
  int num_kv_heads = 0;
  int head_dim = 0;
  cpu::KvElement element = cpu::KvElement::kF32;

  std::int64_t element_bytes() const { return element == cpu::KvElement::kF32 ? 4 : 2; }
  std::int64_t block_bytes() const {
    return 2 * static_cast<std::int64_t>(num_kv_heads) * head_dim * cpu::kBlockTokens * element_bytes();
  }
};

// "f32", "bf16" or "f16"; INVALID_ARGUMENT otherwise.
Result<cpu::KvElement> parse_kv_dtype(const std::string& name);

class KvStorage {
 public:
  // Throws c10::Error where the device has not that much memory: the engine's create() turns it into a
  // Status.
  KvStorage(const KvLayout& layout, int num_blocks, at::Device device);

  const KvLayout& layout() const { return layout_; }
  at::Device device() const { return bytes_.device(); }
  const at::Tensor& keys() const {
    return keys_;
  }  // [num_blocks, num_kv_heads, head_dim, block_size], a view
  const at::Tensor& values() const {
    return values_;
  }                              // [num_blocks, num_kv_heads, block_size, head_dim], a view
  cpu::KvPool cpu_pool() const;  // CPU storage only

 private:
  KvLayout layout_;
  at::Tensor bytes_;
  at::Tensor keys_;
  at::Tensor values_;
};

}  // namespace kvcrush
