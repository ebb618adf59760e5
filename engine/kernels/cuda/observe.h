// What pruning reads, on the GPU: the newest queries, kept in rings, and what they and the cached keys and
// values say about each slot, for many layers and sequences at once. Addresses of rows are multiples of 16
// bytes; arrays of jobs are in device memory. Nothing here allocates or waits; no jobs are no launch.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/cuda_kernels.h"

namespace kvcrush::cuda {

// One row of a step into a sequence's rings, of which a layer's rows follow each other. The same copies serve
// every layer of the step.
struct QueryCopy {
  void* queries = nullptr;       // float16 [num_layers, ring_rows, num_heads, head_dim]
  float* row_stats = nullptr;    // [num_layers, ring_rows, num_heads, 2]
  std::int32_t source_row = -1;  // of qkv and row_stats; -1: nothing to copy
  std::int32_t ring_row = 0;     // no two copies of a ring share one
  std::int32_t ring_rows = 0;
};
struct RecordCall {
  const QueryCopy* copies = nullptr;
  int num_copies = 0;
  int layer = 0;
  int num_heads = 0;  // query heads
  int head_dim = 0;   // multiple of 16
  ActivationType activations = ActivationType::kF16;
  const void* qkv = nullptr;         // activations [T, qkv_stride]: query heads first
  std::int64_t qkv_stride = 0;       // elements
  const float* row_stats = nullptr;  // [T, num_heads, 2], as attention left them
};
void record_queries(const RecordCall& call, Stream stream);

// What one layer of one sequence was attended to, by query head: sums of exp(score - largest) / sum over
// queries in ascending order, as cpu_kernels' probability_sums. Query i sees the first num_cached + num_after
// - num_queries + i + 1 slots, from its window's first one on. To the bit, sums do not depend on how queries
// were cut into calls.
struct ProbabilityJob {
  cpu::CachedLayer cache;
  const void* queries = nullptr;       // rows of [num_heads, head_dim], query_stride elements apart
  const float* row_stats = nullptr;    // the same rows, [num_heads, 2] each
  const std::int32_t* rows = nullptr;  // [num_queries], oldest first; null: 0, 1, ...
  std::int32_t num_queries = 0;
  std::int32_t num_after = 0;   // the last ones, of tokens after the cached ones
  std::int32_t num_summed = 0;  // slots whose sums are added to; those of the others start at zero
  float* sums = nullptr;        // [num_heads, sums_stride], num_cached of each
  std::int64_t sums_stride = 0;
};
struct ProbabilityCall {
  const ProbabilityJob* jobs = nullptr;
  int num_jobs = 0;
  int max_cached = 0;  // of the jobs; a launch with less is right, but slower
  cpu::KvPool pool;    // head_dim: see has_attention_for()
  int num_heads = 0;
  float scale = 0;                                // 1 / sqrt(head_dim)
  ActivationType queries = ActivationType::kF16;  // a ring's, or those of qkv
  std::int64_t query_stride = 0;
};
void probability_sums(const ProbabilityCall& call, Stream stream);

struct KeyScoreJob {
  cpu::CachedLayer cache;
  std::int32_t against_mean = 0;  // 0: -|K|, else -cos(K, mean K of all slots)
  float* scores = nullptr;        // [num_kv_heads, scores_stride], num_cached of each
  std::int64_t scores_stride = 0;
};
struct KeyScoreCall {
  const KeyScoreJob* jobs = nullptr;
  int num_jobs = 0;
  int max_cached = 0;  // as above
  cpu::KvPool pool;
  float* workspace = nullptr;  // key_score_workspace_floats(); null: no job is against the mean
};
std::int64_t key_score_workspace_floats(const cpu::KvPool& pool, int num_jobs);
void key_scores(const KeyScoreCall& call, Stream stream);

struct ValueNormJob {
  cpu::CachedLayer cache;
  float* norms = nullptr;  // [num_kv_heads, norms_stride], num_cached of each: |V|
  std::int64_t norms_stride = 0;
};
struct ValueNormCall {
  const ValueNormJob* jobs = nullptr;
  int num_jobs = 0;
  int max_cached = 0;  // as above
  cpu::KvPool pool;
};
void value_norms(const ValueNormCall& call, Stream stream);

}  // namespace kvcrush::cuda
