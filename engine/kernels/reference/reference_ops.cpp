// Plain ATen: the oracle of every faster kernel, and what a GPU runs where no fast kernel exists yet.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "engine/core/status.h"
#include "engine/kernels/ops.h"
#include "engine/kernels/reference/kv_access.h"

namespace kvcrush::reference {

namespace {

at::Tensor to_tensor(std::span<const std::int32_t> values, at::Device device) {
  return at::tensor(at::ArrayRef<std::int32_t>(values.data(), values.size()), at::kInt)
      .to(at::kLong)
      .to(device);
}

// q k^T / sqrt(D) for the last W queries of n cached tokens, -inf where a query does not see the token: [Hq,
// W, n]. q [W, Hq, D], k [Hkv, n, D].
at::Tensor causal_scores(const at::Tensor& q, const at::Tensor& k, const HeadLayout& heads,
                         int num_after = 0) {
  const std::int64_t num_queries = q.size(0);
  const std::int64_t num_cached = k.size(1);
  const at::Tensor keys = k.repeat_interleave(heads.num_heads / heads.num_kv_heads, 0);
  at::Tensor scores =
      at::matmul(q.transpose(0, 1), keys.transpose(1, 2)) / std::sqrt(static_cast<double>(heads.head_dim));
  const auto options = at::TensorOptions(at::kLong).device(q.device());
  const std::int64_t end = num_cached + num_after;
  const at::Tensor last_visible = at::arange(end - num_queries, end, options).unsqueeze(1);
  const at::Tensor hidden = at::arange(num_cached, options).unsqueeze(0).gt(last_visible);
  return scores.masked_fill(hidden, -INFINITY);
}

// [Hkv or 1, num_queries, num_cached]: slots that the window of a query is past. first_seen(kv_head, row).
template <typename FirstSeen>
at::Tensor before_window(const cpu::CachedLayer& cache, int num_kv_heads, std::int64_t num_queries,
                         at::Device device, const FirstSeen& first_seen) {
  const auto options = at::TensorOptions(at::kLong);
  if (cache.window.tokens == 0)
    return at::zeros({1, 1, cache.num_cached}, options.dtype(at::kBool).device(device));
  at::Tensor first = at::empty({num_kv_heads, num_queries, 1}, options);
  for (int h = 0; h < num_kv_heads; ++h) {
    for (std::int64_t row = 0; row < num_queries; ++row)
      first.data_ptr<std::int64_t>()[h * num_queries + row] = first_seen(h, static_cast<int>(row));
  }
  return at::arange(cache.num_cached, options).lt(first).to(device);
}

// The same for queries that are the last of the cache, or num_after behind it.
at::Tensor before_window(const cpu::CachedLayer& cache, const HeadLayout& heads, std::int64_t num_queries,
                         int num_after, at::Device device) {
  const auto first_seen = [&](int kv_head, int row) {
    const int slot = cache.num_cached + num_after - static_cast<int>(num_queries) + row;
    return cpu::first_in_window(cache, kv_head, std::min(slot, cache.num_cached));
  };
  return before_window(cache, heads.num_kv_heads, num_queries, device, first_seen)
      .repeat_interleave(cache.window.tokens == 0 ? 1 : heads.num_heads / heads.num_kv_heads, 0);
}

// [num_queries, num_cached]: slots of a branch that is not the query's.
at::Tensor other_branches(const PagedSequence& sequence, at::Device device) {
  const auto options = at::TensorOptions(at::kLong).device(device);
  const std::int64_t end = sequence.cache.num_cached;
  const at::Tensor slots = at::arange(end, options).unsqueeze(0);
  const at::Tensor own = at::arange(end - sequence.num_queries, end, options).unsqueeze(1);
  return slots.ge(end - sequence.num_branch_slots)
      .logical_and((slots - own).remainder(sequence.num_branches).ne(0));
}

at::Tensor past_window(const PagedSequence& sequence, const HeadLayout& heads, at::Device device) {
  const auto first_seen = [&](int kv_head, int row) {
    return cpu::first_seen_slot(sequence, kv_head, sequence.cache.num_cached - sequence.num_queries + row);
  };
  return before_window(sequence.cache, heads.num_kv_heads, sequence.num_queries, device, first_seen)
      .repeat_interleave(sequence.cache.window.tokens == 0 ? 1 : heads.num_heads / heads.num_kv_heads, 0);
}

}  // namespace

void rms_norm(const at::Tensor& x, const at::Tensor& weight, float eps, at::Tensor& out) {
  out.copy_(x * at::rsqrt(x.pow(2).mean(-1, /*keepdim=*/true) + eps) * weight);
}

void rms_norm_add(const at::Tensor& x, const at::Tensor& weight, float eps, at::Tensor& out) {
  at::Tensor normed = at::empty_like(x);
  rms_norm(x, weight, eps, normed);
  out.add_(normed);
}

void head_norms(at::Tensor& qkv, const HeadLayout& heads, const at::Tensor& q_weight,
                const at::Tensor& k_weight, float eps) {
  const at::Tensor all = qkv.unflatten(1, {-1, heads.head_dim});  // [T, Hq + 2 Hkv, D]
  at::Tensor queries = all.narrow(1, 0, heads.num_heads);
  at::Tensor keys = all.narrow(1, heads.num_heads, heads.num_kv_heads);
  rms_norm(queries, q_weight, eps, queries);
  rms_norm(keys, k_weight, eps, keys);
}

void linear(const at::Tensor& x, const at::Tensor& dense, const at::Tensor& bias, at::Tensor& out,
            bool accumulate) {
  at::Tensor y = at::matmul(x, dense.t());
  if (bias.defined()) y = y + bias;
  if (accumulate) {
    out.add_(y);
  } else {
    out.copy_(y);
  }
}

void gated_mul(const at::Tensor& gate_up, Activation activation, at::Tensor& out) {
  const std::int64_t n = out.size(1);
  const at::Tensor gate = gate_up.narrow(1, 0, n);
  out.copy_((activation == Activation::kSilu ? at::silu(gate) : at::gelu(gate, "tanh")) *
            gate_up.narrow(1, n, n));
}

void rope(at::Tensor& qkv, const HeadLayout& heads, std::span<const std::int32_t> positions,
          const at::Tensor& cos_sin) {
  const std::int64_t half = heads.head_dim / 2;
  const at::Tensor table =
      cos_sin.index_select(0, to_tensor(positions, qkv.device())).unsqueeze(1);  // [T, 1, D]
  const at::Tensor cosines = table.narrow(2, 0, half);
  const at::Tensor sines = table.narrow(2, half, half);
  at::Tensor rotated = qkv.narrow(1, 0, (heads.num_heads + heads.num_kv_heads) * heads.head_dim)
                           .unflatten(1, {heads.num_heads + heads.num_kv_heads, heads.head_dim});
  const at::Tensor low = rotated.narrow(2, 0, half).clone();
  const at::Tensor high = rotated.narrow(2, half, half).clone();
  rotated.narrow(2, 0, half).copy_(low * cosines - high * sines);
  rotated.narrow(2, half, half).copy_(high * cosines + low * sines);
}

void hadamard(at::Tensor& x, int head_dim) {
  const int size = head_dim & -head_dim;
  at::Tensor matrix = at::ones({1, 1}, x.options());
  for (int n = 1; n < size; n *= 2)
    matrix = at::cat({at::cat({matrix, matrix}, 1), at::cat({matrix, -matrix}, 1)}, 0);
  at::Tensor parts = x.unflatten(1, {-1, size});
  x.copy_((at::matmul(parts, matrix) / std::sqrt(static_cast<double>(size))).flatten(1));
}

void kv_append(const at::Tensor& qkv, const HeadLayout& heads, std::span<const PagedSequence> sequences,
               KvStorage& kv) {
  const std::int64_t kv_width = static_cast<std::int64_t>(heads.num_kv_heads) * heads.head_dim;
  const at::Tensor all =
      qkv.narrow(1, static_cast<std::int64_t>(heads.num_heads) * heads.head_dim, 2 * kv_width)
          .unflatten(1, {2, heads.num_kv_heads, heads.head_dim});
  for (const PagedSequence& sequence : sequences) {
    for (int i = 0; i < sequence.num_queries; ++i) {
      const int slot = sequence.cache.num_cached - sequence.num_queries + i;
      const at::Tensor token = all[sequence.query_start + i];
      write_float_slot(sequence.cache, slot, token[0], token[1], kv);
    }
  }
}

void paged_attention(const at::Tensor& qkv, const HeadLayout& heads, std::span<const PagedSequence> sequences,
                     const KvStorage& kv, at::Tensor& out, at::Tensor& row_stats) {
  const at::Tensor q = qkv.narrow(1, 0, static_cast<std::int64_t>(heads.num_heads) * heads.head_dim)
                           .unflatten(1, {heads.num_heads, heads.head_dim});
  for (const PagedSequence& sequence : sequences) {
    const auto [k, v] = read_cached(sequence.cache, kv);
    const at::Tensor scores = causal_scores(q.narrow(0, sequence.query_start, sequence.num_queries), k, heads)
                                  .masked_fill(other_branches(sequence, k.device()), -INFINITY)
                                  .masked_fill(past_window(sequence, heads, k.device()), -INFINITY);
    const at::Tensor mixed = at::matmul(
        at::softmax(scores, -1), v.repeat_interleave(heads.num_heads / heads.num_kv_heads, 0));  // [Hq, W, D]
    out.narrow(0, sequence.query_start, sequence.num_queries).copy_(mixed.transpose(0, 1).flatten(1));
    const at::Tensor top = scores.amax(-1);
    const at::Tensor sum = (scores - top.unsqueeze(-1)).exp().sum(-1);
    row_stats.view({-1, heads.num_heads, 2})
        .narrow(0, sequence.query_start, sequence.num_queries)
        .copy_(at::stack({top, sum.reciprocal()}, -1).transpose(0, 1));
  }
}

at::Tensor probability_sums(const at::Tensor& queries, const HeadLayout& heads, const cpu::CachedLayer& cache,
                            const KvStorage& kv) {
  const at::Tensor q = queries.unflatten(1, {heads.num_heads, heads.head_dim});
  const at::Tensor hidden = before_window(cache, heads, q.size(0), 0, q.device());
  return at::softmax(causal_scores(q, read_cached(cache, kv).first, heads).masked_fill(hidden, -INFINITY), -1)
      .sum(1);
}

at::Tensor probability_sums_after(const at::Tensor& queries, const at::Tensor& row_stats, int num_after,
                                  const HeadLayout& heads, const cpu::CachedLayer& cache,
                                  const KvStorage& kv) {
  const at::Tensor q = queries.unflatten(1, {heads.num_heads, heads.head_dim});
  const at::Tensor scores =  // [Hq, W, n]
      causal_scores(q, read_cached(cache, kv).first, heads, num_after)
          .masked_fill(before_window(cache, heads, q.size(0), num_after, q.device()), -INFINITY);
  const at::Tensor stats = row_stats.view({-1, heads.num_heads, 2}).permute({2, 1, 0}).unsqueeze(-1);
  return ((scores - stats[0]).exp() * stats[1]).sum(1);
}

at::Tensor key_scores(const cpu::CachedLayer& cache, bool against_mean, const KvStorage& kv) {
  const at::Tensor k = read_cached(cache, kv).first;
  if (!against_mean) return -k.norm(2, -1);
  const at::Tensor mean = k.mean(1, /*keepdim=*/true);
  const at::Tensor norms = k.norm(2, -1) * mean.norm(2, -1);
  return at::where(norms > 0, -(k * mean).sum(-1) / norms, at::zeros_like(norms));
}

at::Tensor value_norms(const cpu::CachedLayer& cache, const KvStorage& kv) {
  return read_cached(cache, kv).second.norm(2, -1);
}

}  // namespace kvcrush::reference
