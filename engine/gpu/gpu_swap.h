// Cached blocks of preempted sequences in the host's memory; the counterpart of model/swap_space.h. Copies
// run beside the computation: a sequence that leaves costs the others no time, and its blocks are free at
// once.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <unordered_map>

#include "engine/core/types.h"
#include "engine/gpu/staging.h"
#include "engine/kv_cache/kv_storage.h"

namespace kvcrush {

class GpuSwap {
 public:
  // Measures how fast copies are, both ways together.
  GpuSwap(const KvStorage& kv, GpuRuntime& runtime);

  // Of one block, one way.
  double seconds_per_block() const { return seconds_per_block_; }
  // `staging` was started, and is uploaded here.
  void swap_out(SequenceId id, std::span<const BlockId> blocks, const KvStorage& kv, Staging& staging);
  void swap_in(SequenceId id, std::span<const BlockId> blocks, const KvStorage& kv, Staging& staging);
  void forget(SequenceId id) { kept_.erase(id); }

 private:
  at::Tensor device_index(std::span<const BlockId> blocks, Staging& staging) const;

  GpuRuntime& runtime_;
  double seconds_per_block_ = 0;
  std::unordered_map<SequenceId, at::Tensor> kept_;  // uint8 [blocks, num_kv_heads, bytes of a head]
};

}  // namespace kvcrush
