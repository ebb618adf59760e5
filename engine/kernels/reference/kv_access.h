// Blocks of any dtype read and written in plain ATen.
#pragma once

#include <ATen/core/Tensor.h>

#include "engine/kernels/ops.h"

namespace kvcrush::reference {

// k, v [Hkv, D] float32 into a slot of the tail.
void write_float_slot(const cpu::CachedLayer& cache, int slot, const at::Tensor& k, const at::Tensor& v,
                      KvStorage& kv);

}  // namespace kvcrush::reference
