// CPU kernels over plain pointers: no torch, so they and their tests compile in a second. Each source under
// cpu/ is compiled once per instruction set; cpu_kernels() picks the best one this machine has.
//
// Batch invariance: every output element is computed by the same sequence of float32 operations whatever else
// is in the batch and however a prompt was cut into chunks (GEMM accumulates over k in order; attention walks
// a row's tiles in order, in partitions of fixed length). So a request gives the same bits alone, in a full
// batch and after preemption.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/kernels/cpu/kv_layout.h"
#include "engine/kernels/cpu/quant_format.h"

namespace kvcrush::cpu {

// One sequence's part of a ragged batch, in one layer. Its queries are the rows [query_start, query_start +
// num_queries) of q and the last num_queries of the cached tokens, all of them in the tail.
struct AttentionSequence {
  std::int32_t query_start = 0;
  std::int32_t num_queries = 0;
  CachedLayer cache;
  // The newest num_branch_slots cached tokens are num_branches texts that go on from the others, one token of
  // each in turn: a query sees of them only those of its own text.
  std::int32_t num_branches = 1;
  std::int32_t num_branch_slots = 0;
};

// The first slot that the query in slot `slot` sees. Of branches a window counts its own text alone.
KVCRUSH_LAYOUT int first_seen_slot(const AttentionSequence& sequence, int kv_head, int slot) {
  if (sequence.cache.window.tokens == 0) return 0;
  const int trunk_slots = sequence.cache.num_cached - sequence.num_branch_slots;
  if (sequence.num_branches <= 1 || slot < trunk_slots) return first_in_window(sequence.cache, kv_head, slot);
  const int depth = (slot - trunk_slots) / sequence.num_branches;  // in its branch
  const int first = first_in_window(sequence.cache, kv_head, trunk_slots + depth);
  return first <= trunk_slots ? first : trunk_slots + (first - trunk_slots) * sequence.num_branches;
}

// A unit of attention work for one thread: `num_queries` queries of one sequence and KV head over the cached
// partitions [first_partition, last_partition).
struct AttentionTask {
  const AttentionSequence* sequence = nullptr;
  std::int32_t kv_head = 0;
  std::int32_t first_query = 0;  // within the sequence
  std::int32_t num_queries = 0;  // at most kMaxTaskQueries, of attention_bf16() kMaxTaskRows / group
  std::int32_t first_partition = 0;
  std::int32_t last_partition = 0;
  float* partial =
      nullptr;  // null: writes the finished rows to out; else [rows, head_dim + 2] states for merge_partials
};
inline constexpr int kPartitionTiles = 32;
inline constexpr int kMaxTaskQueries = 8;
inline constexpr int kMaxGroup = 16;                              // query heads per KV head
inline constexpr int kMaxTaskRows = kMaxTaskQueries * kMaxGroup;  // queries x query heads

inline constexpr int kWeightBlock = 64;

struct KernelTable {
  const char* isa;

  // Weights packed for gemm: panels of `panel_width` output features, [ceil(n / width)][k][width], zero
  // padded.
  int panel_width;
  void (*pack_panel)(const float* w /* [rows, k], rows <= width */, int rows, int k, float* panel);
  // y[m, n] = x[m, k] * w^T for output panels [first_panel, last_panel), or y += ... when `accumulate`. ld in
  // floats.
  void (*gemm_panels)(const float* x, std::int64_t ldx, int m, int k, const float* packed, int n,
                      int first_panel, int last_panel, float* y, std::int64_t ldy, bool accumulate);

  // One row of activations [out.in_features] into place `index` of `out`.
  void (*quantize_row)(const float* row, int index, const QuantRows& out);
  // y[num_rows, columns of the panels] = x w^T for panels [first_panel, last_panel) of w, which has
  // num_columns output features; y is its first one. scratch: quant_scratch_bytes().
  void (*quant_panels)(const QuantPanels& w, std::int64_t first_panel, std::int64_t last_panel,
                       const QuantRows& x, int num_rows, std::int64_t num_columns, std::uint8_t* scratch,
                       float* y, std::int64_t ldy, bool accumulate);

  void (*rms_norm_row)(const float* x, const float* weight, float eps, int n, float* y);
  void (*rms_norm_add_row)(const float* x, const float* weight, float eps, int n, float* y);  // y += ...
  void (*silu_mul_row)(const float* gate, const float* up, int n, float* y);
  void (*gelu_mul_row)(const float* gate, const float* up, int n, float* y);  // GELU by its tanh formula
  // Rotates num_heads heads of head_dim floats in place, split-half layout; cosines, sines: [head_dim / 2].
  void (*rope_row)(float* heads, int num_heads, int head_dim, const float* cosines, const float* sines);
  // Multiplies each head in place by the orthonormal Hadamard matrix of the largest power of two that divides
  // head_dim, part by part; its own inverse.
  void (*hadamard_heads)(float* heads, int num_heads, int head_dim);

  // scale: 1 / sqrt(head_dim). q: rows of [num_heads, head_dim], q_stride floats apart; out: the same,
  // contiguous. scratch: attention_scratch_floats(). row_stats [rows, num_heads, 2] takes each row's softmax
  // maximum and 1 / sum: what probability_sums needs to have probabilities without a second pass.
  void (*attention)(const AttentionTask& task, const KvPool& pool, const float* q, std::int64_t q_stride,
                    int num_heads, float scale, float* scratch, float* out, float* row_stats);
  // The same in bfloat16, for head_dim a multiple of 32; null: this instruction set has nothing for it.
  // scratch: attention_bf16_scratch_floats().
  void (*attention_bf16)(const AttentionTask& task, const KvPool& pool, const float* q, std::int64_t q_stride,
                         int num_heads, float scale, float* scratch, float* out, float* row_stats);
  // Merges `num_partials` consecutive states of one row, each [head_dim + 2] and `stride` floats apart, into
  // out[head_dim] and row_stats[2].
  void (*merge_partials)(const float* partials, std::int64_t stride, int num_partials, int head_dim,
                         float* out, float* row_stats);
  // sums[group, num_cached], rows sums_stride floats apart, += softmax probabilities of the last num_queries
  // queries, for each query head of kv_head, in ascending order. queries and row_stats: one row [num_heads,
  // head_dim] and [num_heads, 2] each, as attention saw and left them. The last num_after queries belong to
  // tokens after the cached ones. scratch: probability_scratch_floats().
  void (*probability_sums)(const KvPool& pool, const CachedLayer& cache, int kv_head, int group,
                           const float* const* queries, const float* const* row_stats, int num_queries,
                           int num_after, float scale, float* scratch, float* sums, std::int64_t sums_stride);
  // scores[num_cached]: -|K| of each slot, or -cos(K, mean K) where `against_mean`. scratch:
  // attention_scratch_floats().
  void (*key_scores)(const KvPool& pool, const CachedLayer& cache, int kv_head, bool against_mean,
                     float* scratch, float* scores);
  // norms[num_cached]: |V| of each slot. scratch: attention_scratch_floats().
  void (*value_norms)(const KvPool& pool, const CachedLayer& cache, int kv_head, float* scratch,
                      float* norms);
  // Writes one head's part of one block: `count` tokens from slots `sources` (ascending) of `from`, in the
  // block layout of `dtype`. float from float converts, quantised from float quantises, quantised from the
  // same dtype moves codes. `target` lies outside the blocks of `from`. scratch: attention_scratch_floats().
  void (*gather_block)(const KvPool& pool, const CachedLayer& from, int kv_head, const int* sources,
                       int count, KvDtype dtype, float* scratch, std::byte* target);

  // Passes over one row of logits [count]; NaN counts as -infinity. The largest, -infinity where nothing else
  // is.
  float (*largest_logit)(const float* logits, std::int64_t count);
  // A token's weight is exp((logit - max_logit) / temperature): 1 for the likeliest, whatever max_logit is.
  // temperature > 0. Relative error of a weight: 3e-7; below exp(-87) it is 0.
  double (*sum_weights)(const float* logits, std::int64_t count, float max_logit, float temperature);
  // Replaces logits by weights, those below least_weight by 0. block_sums [ceil(count / kWeightBlock)] takes
  // the sums of kWeightBlock weights each; returns the sum of all.
  double (*to_weights)(float* logits, std::int64_t count, float max_logit, float temperature,
                       float least_weight, double* block_sums);
};

const KernelTable& cpu_kernels();                     // the best for this machine
const KernelTable* cpu_kernels_for(const char* isa);  // one of kCpuIsas; null: this machine cannot run it
inline constexpr const char* kCpuIsas[] = {"amx", "avx512vnni", "avx512", "avx2", "generic"};  // best first

inline constexpr std::int64_t kPanelsInHand = 2;  // most panels that one call of quant_panels takes
static constexpr std::int64_t quant_scratch_bytes(std::int64_t num_groups) {
  return kPanelsInHand * num_groups * kQuantPanel * kQuantGroup;
}

static constexpr std::int64_t attention_scratch_floats() {
  return kMaxTaskRows * (3 * kMaxHeadDim + 2 * kTileTokens + 8) + 3 * kMaxHeadDim * kTileTokens;
}
static constexpr std::int64_t attention_bf16_scratch_floats() {
  constexpr std::int64_t chunk = 128;  // slots in hand
  return attention_scratch_floats() + (kMaxTaskRows + 2 * chunk) * kMaxHeadDim / 2 + 16 * chunk * 3 / 2;
}
inline constexpr int kObservedRows = 32;  // query rows of one head that are in hand at a time
static constexpr std::int64_t probability_scratch_floats() {
  return attention_scratch_floats() + static_cast<std::int64_t>(kObservedRows) * kMaxHeadDim;
}

}  // namespace kvcrush::cpu
