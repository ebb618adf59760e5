// The bytes behind the block pool: one allocation on one device. What lies where in a block is kv_layout.h's.
// Memory is not cleared: no kernel reads a slot past a sequence's cached length.
#pragma once

#include <ATen/core/Tensor.h>

#include "engine/kernels/cpu/kv_layout.h"

namespace kvcrush {

struct KvLayout {
  int num_kv_heads = 0;
  int head_dim = 0;

  std::int64_t block_bytes() const { return num_kv_heads * cpu::block_head_bytes(head_dim); }
};

// How a sequence whose cache is kept in `dtype` lies in blocks: a quantised one keeps its newest tokens in
// f16.
cpu::KvFormat make_kv_format(KvDtype dtype, int head_dim);

class KvStorage {
 public:
  // Throws c10::Error where the device has not that much memory: the engine's create() turns it into a
  // Status.
  KvStorage(const KvLayout& layout, int num_blocks, at::Device device);

  const KvLayout& layout() const { return layout_; }
  at::Device device() const { return bytes_.device(); }
  const at::Tensor& bytes() const { return bytes_; }  // uint8 [num_blocks, num_kv_heads, bytes of a head]
  cpu::KvPool pool() const;                           // addresses are the device's
  cpu::KvPool cpu_pool() const;                       // CPU storage only

 private:
  KvLayout layout_;
  at::Tensor bytes_;
};

}  // namespace kvcrush
