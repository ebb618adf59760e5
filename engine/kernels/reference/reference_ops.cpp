// Plain ATen: the oracle of every faster kernel, and what a GPU runs where no fast kernel exists yet.
#include <ATen/ATen.h>

#include <cmath>

#include "engine/core/status.h"
#include "engine/kernels/ops.h"

namespace kvcrush::reference {

namespace {

at::Tensor to_tensor(std::span<const std::int32_t> values, at::Device device) {
  return at::tensor(at::ArrayRef<std::int32_t>(values.data(), values.size()), at::kInt)
      .to(at::kLong)
      .to(device);
}

// K [Hkv, n, D] and V [Hkv, n, D] of a sequence, gathered from its blocks, in float32.
std::pair<at::Tensor, at::Tensor> gather_cached(std::span<const BlockId> blocks, int num_cached,
                                                const KvStorage& kv) {
  const at::Tensor ids = to_tensor(blocks, kv.device());
  const auto flatten = [&](const at::Tensor& per_block /* [blocks, Hkv, bs, D] */) {
    return per_block.permute({1, 0, 2, 3}).flatten(1, 2).narrow(1, 0, num_cached).to(at::kFloat);
  };
  return {flatten(kv.keys().index_select(0, ids).transpose(2, 3)), flatten(kv.values().index_select(0, ids))};
}

// softmax(q k^T / sqrt(D)) for the last W queries of n cached tokens: [Hq, W, n]. q [W, Hq, D], k [Hkv, n,
// D].
at::Tensor causal_probabilities(const at::Tensor& q, const at::Tensor& k, const HeadLayout& heads) {
  const std::int64_t num_queries = q.size(0);
  const std::int64_t num_cached = k.size(1);
  const at::Tensor keys = k.repeat_interleave(heads.num_heads / heads.num_kv_heads, 0);
  at::Tensor scores =
      at::matmul(q.transpose(0, 1), keys.transpose(1, 2)) / std::sqrt(static_cast<double>(heads.head_dim));
  const auto options = at::TensorOptions(at::kLong).device(q.device());
  const at::Tensor last_visible = at::arange(num_cached - num_queries, num_cached, options).unsqueeze(1);
  const at::Tensor hidden = at::arange(num_cached, options).unsqueeze(0).gt(last_visible);
  return at::softmax(scores.masked_fill(hidden, -INFINITY), -1);
}

std::span<const BlockId> blocks_of(const PagedSequence& sequence) {
  return {sequence.blocks,
          static_cast<std::size_t>((sequence.num_cached + cpu::kBlockTokens - 1) / cpu::kBlockTokens)};
}

}  // namespace

void rms_norm(const at::Tensor& x, const at::Tensor& weight, float eps, at::Tensor& out) {
  out.copy_(x * at::rsqrt(x.pow(2).mean(-1, /*keepdim=*/true) + eps) * weight);
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

void silu_mul(const at::Tensor& gate_up, at::Tensor& out) {
  const std::int64_t n = out.size(1);
  out.copy_(at::silu(gate_up.narrow(1, 0, n)) * gate_up.narrow(1, n, n));
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

void kv_append(const at::Tensor& qkv, const HeadLayout& heads, std::span<const PagedSequence> sequences,
               KvStorage& kv) {
  const std::int64_t kv_width = static_cast<std::int64_t>(heads.num_kv_heads) * heads.head_dim;
  const at::Tensor all =
      qkv.narrow(1, static_cast<std::int64_t>(heads.num_heads) * heads.head_dim, 2 * kv_width)
          .unflatten(1, {2, heads.num_kv_heads, heads.head_dim});
  for (const PagedSequence& sequence : sequences) {
    for (int i = 0; i < sequence.num_queries; ++i) {
      const int slot = sequence.num_cached - sequence.num_queries + i;
      const BlockId block = sequence.blocks[slot / cpu::kBlockTokens];
      const int offset = slot % cpu::kBlockTokens;
      const at::Tensor token = all[sequence.query_start + i];
      kv.keys()[block].select(2, offset).copy_(token[0]);
      kv.values()[block].select(1, offset).copy_(token[1]);
    }
  }
}

void paged_attention(const at::Tensor& qkv, const HeadLayout& heads, std::span<const PagedSequence> sequences,
                     const KvStorage& kv, at::Tensor& out) {
  const at::Tensor q = qkv.narrow(1, 0, static_cast<std::int64_t>(heads.num_heads) * heads.head_dim)
                           .unflatten(1, {heads.num_heads, heads.head_dim});
  for (const PagedSequence& sequence : sequences) {
    const auto [k, v] = gather_cached(blocks_of(sequence), sequence.num_cached, kv);
    const at::Tensor p =
        causal_probabilities(q.narrow(0, sequence.query_start, sequence.num_queries), k, heads);
    const at::Tensor mixed =
        at::matmul(p, v.repeat_interleave(heads.num_heads / heads.num_kv_heads, 0));  // [Hq, W, D]
    out.narrow(0, sequence.query_start, sequence.num_queries).copy_(mixed.transpose(0, 1).flatten(1));
  }
}

at::Tensor observation_scores(const at::Tensor& queries, const HeadLayout& heads,
                              std::span<const BlockId> blocks, int num_cached, const KvStorage& kv) {
  const at::Tensor q = queries.unflatten(1, {heads.num_heads, heads.head_dim});
  const at::Tensor k = gather_cached(blocks, num_cached, kv).first;
  return causal_probabilities(q, k, heads).sum(1).to(at::kCPU).contiguous();
}

void compact(std::span<const int> kept, int num_kept, std::span<const BlockId> blocks, KvStorage& kv) {
  const int num_kv_heads = kv.layout().num_kv_heads;
  const auto num_sets = static_cast<int>(kept.size()) / num_kept;
  KVCRUSH_CHECK(num_sets == 1 || num_sets == num_kv_heads);
  const at::Tensor ids = to_tensor(blocks, kv.device());
  const auto num_blocks = static_cast<std::int64_t>(blocks.size());
  const at::Tensor keys = kv.keys().index_select(0, ids);                       // [blocks, Hkv, D, bs]
  const at::Tensor values = kv.values().index_select(0, ids);                   // [blocks, Hkv, bs, D]
  at::Tensor flat_keys = keys.permute({1, 2, 0, 3}).flatten(2, 3).clone();      // [Hkv, D, slots]
  at::Tensor flat_values = values.permute({1, 0, 2, 3}).flatten(1, 2).clone();  // [Hkv, slots, D]
  for (int h = 0; h < num_kv_heads; ++h) {
    const auto set = kept.subspan(static_cast<std::size_t>(num_sets == 1 ? 0 : h) * num_kept, num_kept);
    const at::Tensor slots = to_tensor(set, kv.device());
    flat_keys[h].narrow(1, 0, num_kept).copy_(flat_keys[h].index_select(1, slots));
    flat_values[h].narrow(0, 0, num_kept).copy_(flat_values[h].index_select(0, slots));
  }
  const at::Tensor new_keys = flat_keys.unflatten(2, {num_blocks, cpu::kBlockTokens}).permute({2, 0, 1, 3});
  const at::Tensor new_values =
      flat_values.unflatten(1, {num_blocks, cpu::kBlockTokens}).permute({1, 0, 2, 3});
  for (std::int64_t b = 0; b < num_blocks; ++b) {
    kv.keys()[blocks[b]].copy_(new_keys[b]);
    kv.values()[blocks[b]].copy_(new_values[b]);
  }
}

}  // namespace kvcrush::reference
