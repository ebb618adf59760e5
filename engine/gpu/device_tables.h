// Block tables of the running sequences in device memory. Only what changed since the last step is sent.
#pragma once

#include <ATen/core/Tensor.h>

#include <unordered_map>
#include <vector>

#include "engine/gpu/staging.h"
#include "engine/kernels/cpu/cpu_kernels.h"
#include "engine/kernels/cuda/table_update.h"
#include "engine/kv_cache/sequence_cache.h"
#include "engine/scheduler/sequence.h"

namespace kvcrush {

class DeviceTables {
 public:
  DeviceTables(GpuRuntime& runtime, int num_layers) : runtime_(runtime), num_layers_(num_layers) {}

  // Notes what the device does not know yet of this sequence's blocks; flush() sends it.
  void follow(const Sequence& sequence);
  // A layer as kernels see it. After follow(), until the table changes.
  cpu::CachedLayer cached(const Sequence& sequence, int layer) const;
  // `sequence` as every layer's attention sees it, [num_layers] `stride` apart: `paged` with the layer's own
  // cache. Returns a layer that holds the most tokens.
  int fill_layers(const Sequence& sequence, const cpu::AttentionSequence& paged,
                  cpu::AttentionSequence* layers, std::size_t stride) const;
  // The slots that `layer`, one with a window, has now, after a prune: their positions, int32
  // [num_kv_heads, slots] on the device. Until the next prune, also as the first ones leave the window.
  void place(const Sequence& sequence, int layer, at::Tensor positions);
  // Forgets what follow() noted, of sequences that are gone.
  void discard_updates() { updates_.clear(); }
  // Adds the updates to `staging`; apply() after its upload carries them out.
  void flush(Staging& staging);
  void apply();
  void forget(SequenceId id) { tables_.erase(id); }

 private:
  struct Mirror {
    int revision = -1;  // of the BlockTable
    int num_blocks = 0;
  };
  // Slots that have positions of their own.
  struct Placed {
    at::Tensor positions;  // undefined: none
    int num_gone = 0;      // of the layer's tokens, when they were placed
  };
  struct Table {
    at::Tensor blocks;  // int32 [num_layers, capacity] on the device
    int capacity = 0;
    std::vector<Mirror> layers;
    std::vector<Placed> placed;  // [num_layers], or empty
    cpu::CachedLayer cached(const Sequence& sequence, int layer) const;
  };
  static constexpr int kLeastCapacity = 64;

  GpuRuntime& runtime_;
  int num_layers_;
  std::unordered_map<SequenceId, Table> tables_;
  std::vector<cuda::TableUpdate> updates_;
  const cuda::TableUpdate* device_updates_ = nullptr;
  int num_sent_ = 0;
};

}  // namespace kvcrush
