// The bytes behind the block pool: one allocation on one device. What lies where in a block is kv_layout.h's.
// Memory is not cleared: no kernel reads a slot past a sequence's cached length.
#pragma once

#include <ATen/core/Tensor.h>

#include "engine/kv_cache/kv_format.h"

namespace kvcrush {

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
