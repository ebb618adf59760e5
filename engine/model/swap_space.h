// Cached blocks of preempted sequences in the host's memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <unordered_map>

#include "engine/core/types.h"
#include "engine/kv_cache/kv_storage.h"

namespace kvcrush {

class SwapSpace {
 public:
  void swap_out(SequenceId id, std::span<const BlockId> blocks, const KvStorage& kv);
  void swap_in(SequenceId id, std::span<const BlockId> blocks, const KvStorage& kv);
  void forget(SequenceId id) { kept_.erase(id); }

 private:
  std::unordered_map<SequenceId, at::Tensor> kept_;  // uint8 [blocks, num_kv_heads, bytes of a head]
};

}  // namespace kvcrush
