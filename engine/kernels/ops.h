// Every operation of the model, by contract. Float tensors are float32, contiguous unless said otherwise, and
// all on one device. On the CPU the fast kernels of cpu/ run; elsewhere the plain ATen versions of
// reference/, which are also the tests' oracle. Shapes: T = tokens of the batch, Hq / Hkv = query / KV heads,
// D = head_dim.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <utility>

#include "engine/core/types.h"
#include "engine/kernels/cpu/batched.h"
#include "engine/kernels/cpu/quantized_matrix.h"
#include "engine/kv_cache/kv_storage.h"

namespace kvcrush {

// Whether the fast CPU kernels serve this device. KVCRUSH_REFERENCE_OPS=1 in the environment sends the CPU
// through the reference operations as well: everything a GPU without its own kernels runs, testable without a
// GPU.
bool use_cpu_kernels(const at::Device& device);

// A projection, prepared for the device it runs on: packed on the CPU, in float32 or in few bits, a dense
// tensor elsewhere.
struct LinearWeight {
  cpu::QuantizedMatrix quantized;  // empty: packed or dense
  cpu::PackedMatrix packed;
  at::Tensor dense;  // [out_features, in_features]; undefined on the CPU
  at::Tensor bias;   // [out_features]; undefined: none
};
LinearWeight make_linear_weight(const at::Tensor& weight /* CPU [out, in] */, at::Device device);

// One sequence's rows of a batch in one layer: queries [query_start, + num_queries) are the last num_queries
// of num_cached tokens.
using PagedSequence = cpu::AttentionSequence;

struct HeadLayout {
  int num_heads = 0;  // query heads
  int num_kv_heads = 0;
  int head_dim = 0;
  int qkv_width() const { return (num_heads + 2 * num_kv_heads) * head_dim; }
};

namespace ops {

void rms_norm(const at::Tensor& x /* [T, n] */, const at::Tensor& weight /* [n] */, float eps,
              at::Tensor& out);
// out += the same.
void rms_norm_add(const at::Tensor& x /* [T, n] */, const at::Tensor& weight /* [n] */, float eps,
                  at::Tensor& out);
// RMS norm of each query and key head of qkv [T, (Hq + 2 Hkv) D] in place; weights [D].
void head_norms(at::Tensor& qkv, const HeadLayout& heads, const at::Tensor& q_weight,
                const at::Tensor& k_weight, float eps);
// out = x w^T + bias, or out += that when `accumulate`.
void linear(const at::Tensor& x /* [T, in] */, const LinearWeight& w, cpu::QuantWorkspace& workspace,
            at::Tensor& out /* [T, out] */, bool accumulate);
// out = activation(gate) * up.
void gated_mul(const at::Tensor& gate_up /* [T, 2n] */, Activation activation, at::Tensor& out /* [T, n] */);
// Rotates the query and key heads of qkv [T, (Hq + 2 Hkv) D] in place; cos_sin [max_positions, D]: cosines,
// then sines.
void rope(at::Tensor& qkv, const HeadLayout& heads, std::span<const std::int32_t> positions,
          const at::Tensor& cos_sin);
// Multiplies every head of x [T, heads D] by the orthonormal Hadamard matrix of the largest power of two that
// divides D, part by part: K, V and queries live in that basis, where one scale per token quantises well.
// Queries and keys turn together, so scores stay; applying it to the attention's output turns V back.
void hadamard(at::Tensor& x, int head_dim);
// Stores K and V of qkv in the sequences' last num_queries slots.
void kv_append(const at::Tensor& qkv, const HeadLayout& heads, std::span<const PagedSequence> sequences,
               KvStorage& kv);
// out [T, Hq D]: causal softmax attention, scale 1 / sqrt(D), of what the cache's window lets a query see.
// row_stats [T, Hq, 2]: each row's largest score
// and 1 / sum of exp(score - largest).
void paged_attention(const at::Tensor& qkv, const HeadLayout& heads, std::span<const PagedSequence> sequences,
                     const KvStorage& kv, cpu::AttentionWorkspace& workspace, at::Tensor& out,
                     at::Tensor& row_stats);

}  // namespace ops

// The same contracts in plain ATen, on any device.
namespace reference {

void rms_norm(const at::Tensor& x, const at::Tensor& weight, float eps, at::Tensor& out);
void rms_norm_add(const at::Tensor& x, const at::Tensor& weight, float eps, at::Tensor& out);
void head_norms(at::Tensor& qkv, const HeadLayout& heads, const at::Tensor& q_weight,
                const at::Tensor& k_weight, float eps);
void linear(const at::Tensor& x, const at::Tensor& dense, const at::Tensor& bias, at::Tensor& out,
            bool accumulate);
void gated_mul(const at::Tensor& gate_up, Activation activation, at::Tensor& out);
void rope(at::Tensor& qkv, const HeadLayout& heads, std::span<const std::int32_t> positions,
          const at::Tensor& cos_sin);
void kv_append(const at::Tensor& qkv, const HeadLayout& heads, std::span<const PagedSequence> sequences,
               KvStorage& kv);
void paged_attention(const at::Tensor& qkv, const HeadLayout& heads, std::span<const PagedSequence> sequences,
                     const KvStorage& kv, at::Tensor& out, at::Tensor& row_stats);
void hadamard(at::Tensor& x, int head_dim);

// K and V of all cached tokens, each [Hkv, num_cached, D] float32.
std::pair<at::Tensor, at::Tensor> read_cached(const cpu::CachedLayer& cache, const KvStorage& kv);
// Sums over the last W queries of their causal softmax: [Hq, num_cached]. queries [W, Hq D], oldest first.
at::Tensor probability_sums(const at::Tensor& queries, const HeadLayout& heads, const cpu::CachedLayer& cache,
                            const KvStorage& kv);
// The same where the last num_after queries belong to tokens that are no longer cached; row_stats [W, Hq 2]
// as attention left them.
at::Tensor probability_sums_after(const at::Tensor& queries, const at::Tensor& row_stats, int num_after,
                                  const HeadLayout& heads, const cpu::CachedLayer& cache,
                                  const KvStorage& kv);
// -|K| or -cos(K, mean K): [Hkv, num_cached].
at::Tensor key_scores(const cpu::CachedLayer& cache, bool against_mean, const KvStorage& kv);
// |V|: [Hkv, num_cached].
at::Tensor value_norms(const cpu::CachedLayer& cache, const KvStorage& kv);
// Slot i of KV head h in `to` takes what slot sources[h][i] of `from` holds; sources: [1 or Hkv,
// to.num_cached]. The two may share blocks.
void rewrite(std::span<const int> sources, const cpu::CachedLayer& from, const cpu::CachedLayer& to,
             KvStorage& kv);

}  // namespace reference
}  // namespace kvcrush
