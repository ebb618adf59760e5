// Tables of the tokens that sequences have seen, and what makes of a row's logits those to choose from.
#pragma once

#include "engine/kernels/cuda/sampling.cuh"

namespace kvcrush::cuda::sampling {

// Where a token's slot is looked for first; the next ones follow.
__device__ __forceinline__ int first_slot(const SeenTokens& seen, int token) {
  return static_cast<int>(
      __umulhi(static_cast<unsigned>(token) * 2654435769U, static_cast<unsigned>(seen.capacity)));
}

__device__ __forceinline__ bool has_penalties(const SampleRow& p) {
  return p.seen.capacity > 0 &&
         (p.repetition_penalty != 1.0F || p.presence_penalty != 0.0F || p.frequency_penalty != 0.0F);
}

// Products are rounded before they are added, as the CPU's are.
__device__ inline void apply_penalties(const SampleRow& p, const LogitsRow& row) {
  for (int i = thread_index(); i < p.seen.capacity; i += num_threads()) {
    SeenToken& seen = p.seen.slots[i];
    const int token = seen.key - 1;
    if (token < 0 || token >= row.vocab_size) continue;
    const float raw = row.logits[token];
    seen.raw_logit = raw;
    float logit = raw > 0.0F ? raw / p.repetition_penalty : __fmul_rn(raw, p.repetition_penalty);
    if (seen.output_count > 0)
      logit -= p.presence_penalty + __fmul_rn(p.frequency_penalty, static_cast<float>(seen.output_count));
    row.logits[token] = logit;
  }
}

__device__ inline void change_logits(const SampleRow& p, const LogitsRow& row) {
  __syncthreads();
  if (has_penalties(p)) apply_penalties(p, row);
  __syncthreads();
  for (int i = thread_index(); i < p.num_banned; i += num_threads()) {
    const int token = p.banned[i];
    if (token >= 0 && token < row.vocab_size) row.logits[token] = minus_infinity();
  }
  __syncthreads();
}

// What the token's logit was at first. 0 is the only token that may be chosen though banned.
__device__ inline float raw_logit(const SampleRow& p, const LogitsRow& row, int token, float raw_logit_of_0) {
  if (token == 0) return raw_logit_of_0;
  if (!has_penalties(p)) return row.logits[token];
  int i = first_slot(p.seen, token);
  for (int n = 0; n < p.seen.capacity && p.seen.slots[i].key != 0; ++n) {
    if (p.seen.slots[i].key == token + 1) return p.seen.slots[i].raw_logit;
    i = i + 1 < p.seen.capacity ? i + 1 : 0;
  }
  return row.logits[token];
}

}  // namespace kvcrush::cuda::sampling
