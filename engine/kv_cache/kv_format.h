// How the blocks of a model's pool are shaped, and how a sequence lies in them. No torch here: who plans a
// deployment asks too.
#pragma once

#include <cstdint>

#include "engine/kernels/cpu/kv_layout.h"

namespace kvcrush {

struct KvLayout {
  int num_kv_heads = 0;
  int head_dim = 0;

  std::int64_t block_bytes() const { return num_kv_heads * cpu::block_head_bytes(head_dim); }
};

// A sequence whose cache is kept in `dtype`: a quantised one keeps its newest tokens in f16.
inline cpu::KvFormat make_kv_format(KvDtype dtype, int head_dim) {
  const KvDtype tail = is_quantised(dtype) ? KvDtype::kF16 : dtype;
  return {.tail = tail,
          .packed = dtype,
          .tail_tokens_per_block = cpu::tokens_per_block(tail, head_dim),
          .packed_tokens_per_block = is_quantised(dtype) ? cpu::tokens_per_block(dtype, head_dim) : 0};
}

}  // namespace kvcrush
