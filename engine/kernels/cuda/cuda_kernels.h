// The kernels that a GPU runs, as plain functions of device addresses. Rows are tokens of the batch. Where no
// GPU is, tests run them in the simulator, and all addresses are the host's.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/attention_plan.h"
#include "engine/kernels/cuda/stream.h"

namespace kvcrush::cuda {

enum class ActivationType { kF32, kF16, kBF16 };

struct AttentionCall {
  const cpu::AttentionSequence* sequences = nullptr;  // [batch], of one layer
  const RowTile* decode = nullptr;                    // the plan's
  const RowTile* prefill = nullptr;
  int num_decode = 0;
  int num_prefill = 0;
  int num_splits = 1;
  int decode_rows = 0;  // the plan's
  int prefill_rows = 0;
  int num_processors = 1;  // of the GPU
  cpu::KvPool pool;
  KvDtype widest = KvDtype::kF16;  // of the batch's dtypes, the one whose tiles are largest
  ActivationType activations = ActivationType::kF16;
  const void* q = nullptr;  // [T, q_stride]: query heads first
  std::int64_t q_stride = 0;
  int num_heads = 0;
  float scale = 0;             // 1 / sqrt(head_dim)
  void* out = nullptr;         // [T, num_heads, head_dim]
  float* row_stats = nullptr;  // [T, num_heads, 2]: largest score, 1 / sum of exp(score - largest)
  bool turn_back = false;      // out times the Hadamard matrix that K, V and queries went through
  float* partials = nullptr;   // partial_floats()
  int* counters = nullptr;     // [num_decode, KV heads], zeros, also afterwards
};

// head_dim: 64, 96, 128 or 256. Throws std::runtime_error where a launch is refused.
void paged_attention(const AttentionCall& call, Stream stream);
bool has_attention_for(int head_dim);
// Whether turn_back may be set: for decodes alone, in the dtypes of has_fast_decode().
bool can_turn_back(int head_dim, KvDtype widest, int decode_rows, int num_prefill);
// Rows of a prefill's row tile, on the current device, for a batch of this widest dtype. has_windows: of some
// sequences, which Hopper's kernel for prompts does not know.
int prefill_rows(int head_dim, KvDtype widest, bool has_windows);

// Whether a step's kernels may start before the ones before them are done, from Hopper on; so they do unless
// this is called, which benchmarks do to compare. Not while kernels are launched.
void set_early_launches(bool wanted);

}  // namespace kvcrush::cuda
