// Positions of the tokens that pruning left in a layer with a sliding window, for many layers and sequences
// at once: which tokens they are, only the device knows.
#pragma once

#include <cstdint>

#include "engine/kernels/cpu/kv_layout.h"
#include "engine/kernels/cuda/stream.h"

namespace kvcrush::cuda {

// One layer of one sequence; device addresses.
struct PlaceJob {
  cpu::SlidingWindow from;                   // before pruning; no window: nothing to do
  const std::int32_t* kept_slots = nullptr;  // [num_sets, num_kept], each row ascending
  std::int32_t num_sets = 1;                 // 1 or num_kv_heads
  std::int32_t num_kept = 0;
  std::int32_t* to = nullptr;  // out: [num_kv_heads, num_kept], rows to_stride apart
  std::int32_t to_stride = 0;
};

// jobs: [num_jobs], in device memory. None writes positions that one of them reads.
void place_tokens(const PlaceJob* jobs, int num_jobs, int num_kv_heads, Stream stream);

}  // namespace kvcrush::cuda
