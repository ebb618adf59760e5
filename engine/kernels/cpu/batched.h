// The kernels of cpu_kernels.h spread over a batch and over threads.
#pragma once

#include <span>
#include <vector>

#include "engine/kernels/cpu/aligned.h"
#include "engine/kernels/cpu/cpu_kernels.h"

namespace kvcrush::cpu {

// A projection [out_features, in_features] packed for gemm.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(std::int64_t out_features, std::int64_t in_features);
  // Fills rows [first_row, first_row + rows) from w [rows, in_features]; first_row is a multiple of
  // panel_width.
  void pack_rows(std::int64_t first_row, std::span<const float> w);
  void pack(std::span<const float> w) { pack_rows(0, w); }

  std::int64_t out_features() const { return out_features_; }
  std::int64_t in_features() const { return in_features_; }
  const float* data() const { return data_.data(); }

 private:
  std::int64_t out_features_ = 0;
  std::int64_t in_features_ = 0;
  AlignedFloats data_;
};

// y[m, out] = x[m, in] w^T; accumulate: y += ... Rows are ld floats apart.
void gemm(const float* x, std::int64_t ldx, int m, const PackedMatrix& w, float* y, std::int64_t ldy,
          bool accumulate);

// Scratch that attention reuses from step to step.
struct AttentionWorkspace {
  bool in_bf16 = false;  // Q, K, V and probabilities rounded to bfloat16, where the CPU is faster at it
  std::vector<AttentionTask> tasks;
  AlignedFloats scratch;        // one part per thread
  std::vector<float> partials;  // states of split rows
  struct Split {
    AttentionTask whole;
    std::int64_t first_partial_float = 0;
    int num_parts = 0;
  };
  std::vector<Split> splits;
};

// Causal attention of a ragged batch over the paged cache. q: rows of [num_heads, head_dim] q_stride floats
// apart; out: [rows, num_heads, head_dim] contiguous; row_stats: [rows, num_heads, 2].
void paged_attention(std::span<const AttentionSequence> sequences, const KvPool& pool, const float* q,
                     std::int64_t q_stride, int num_heads, float scale, AttentionWorkspace& workspace,
                     float* out, float* row_stats);

}  // namespace kvcrush::cpu
