// CPU kernels over plain pointers: no torch, so they and their tests compile in a second. Each source under
// cpu/ is compiled once per instruction set; cpu_kernels() picks the best one this machine has.
//
// Batch invariance: every output element is computed by the same sequence of float32 operations whatever else
// is in the batch and however a prompt was cut into chunks (GEMM accumulates over k in order; attention walks
// a row's blocks in order, in partitions of fixed length). So a request gives the same bits alone, in a full
// batch and after preemption.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvcrush::cpu {

enum class KvElement : std::int32_t { kF32, kBF16, kF16 };

// Where the K and V of one pool live. Block b starts at base + b * block_bytes and holds
//   K [num_kv_heads, head_dim, block_size]   (transposed: the dot products of one query run along the tokens
//   of a block) V [num_kv_heads, block_size, head_dim]
// The block size is fixed at kBlockTokens, one AVX-512 register of float32.
struct KvPool {
  std::byte* base = nullptr;
  std::int64_t block_bytes = 0;
  std::int32_t num_kv_heads = 0;
  std::int32_t head_dim = 0;  // multiple of 16, at most 256
  KvElement element = KvElement::kF32;
};
inline constexpr int kBlockTokens = 16;
inline constexpr int kMaxHeadDim = 256;

// One sequence's part of a ragged batch, in one layer. Its queries are the rows [query_start, query_start +
// num_queries) of q and the last num_queries of the num_cached tokens in its blocks.
struct AttentionSequence {
  std::int32_t query_start = 0;
  std::int32_t num_queries = 0;
  std::int32_t num_cached = 0;
  const std::int32_t* blocks = nullptr;  // [ceil(num_cached / kBlockTokens)]
};

// A unit of attention work for one thread: `num_queries` queries of one sequence and KV head over the cached
// partitions [first_partition, last_partition).
struct AttentionTask {
  const AttentionSequence* sequence = nullptr;
  std::int32_t kv_head = 0;
  std::int32_t first_query = 0;  // within the sequence
  std::int32_t num_queries = 0;  // at most kMaxTaskQueries
  std::int32_t first_partition = 0;
  std::int32_t last_partition = 0;
  float* partial =
      nullptr;  // null: writes the finished rows to out; else [rows, head_dim + 2] states for merge_partials
};
inline constexpr int kPartitionBlocks = 32;
inline constexpr int kMaxTaskQueries = 8;
inline constexpr int kMaxGroup = 16;  // query heads per KV head

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

  void (*rms_norm_row)(const float* x, const float* weight, float eps, int n, float* y);
  void (*silu_mul_row)(const float* gate, const float* up, int n, float* y);
  // Rotates num_heads heads of head_dim floats in place, split-half layout; cosines, sines: [head_dim / 2].
  void (*rope_row)(float* heads, int num_heads, int head_dim, const float* cosines, const float* sines);

  // scale: 1 / sqrt(head_dim). q: rows of [num_heads, head_dim], q_stride floats apart; out: the same,
  // contiguous. scratch: attention_scratch_floats().
  void (*attention)(const AttentionTask& task, const KvPool& pool, const float* q, std::int64_t q_stride,
                    int num_heads, float scale, float* scratch, float* out);
  // Merges `num_partials` consecutive states of one row, each [head_dim + 2] and `stride` floats apart, into
  // out[head_dim].
  void (*merge_partials)(const float* partials, std::int64_t stride, int num_partials, int head_dim,
                         float* out);
  // probability_sums[group, num_cached]: for each query head of kv_head, the sum over the `num_queries` last
  // queries of their causal softmax over all cached slots. queries: one row [num_heads, head_dim] each,
  // oldest first. scratch: observation_scratch_floats(num_cached).
  void (*observation_scores)(const KvPool& pool, const std::int32_t* blocks, int num_cached, int kv_head,
                             int group, const float* const* queries, int num_queries, float scale,
                             float* scratch, float* probability_sums);
};

const KernelTable& cpu_kernels();  // the best for this machine
const KernelTable* cpu_kernels_for(
    const char* isa);  // "generic", "avx2", "avx512"; null: this machine cannot run it

constexpr std::int64_t attention_scratch_floats() {
  constexpr std::int64_t rows = kMaxTaskQueries * kMaxGroup;
  return rows * (3 * kMaxHeadDim + 2 * kBlockTokens + 8) + 2 * kMaxHeadDim * kBlockTokens;
}
inline constexpr int kObservedRows = 8;  // query rows whose scores are held at a time
constexpr std::int64_t observation_scratch_floats(int num_cached) {
  return attention_scratch_floats() + static_cast<std::int64_t>(kObservedRows) * (num_cached + kBlockTokens);
}

}  // namespace kvcrush::cpu
