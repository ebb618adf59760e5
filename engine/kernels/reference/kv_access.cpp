#include "engine/kernels/reference/kv_access.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "engine/core/status.h"

namespace kvcrush::reference {

namespace {

using cpu::kTileTokens;

at::ScalarType scalar_type(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kBF16:
      return at::kBFloat16;
    case KvDtype::kF16:
      return at::kHalf;
    default:
      return at::kFloat;
  }
}

// Neighbouring blocks of one dtype in a sequence's table.
struct Region {
  KvDtype dtype = KvDtype::kF32;
  int tokens_per_block = 0;
  int num_tokens = 0;
  at::Tensor blocks;  // [n] int64
};

Region make_region(const cpu::CachedLayer& cache, bool packed, at::Device device) {
  Region region;
  region.dtype = packed ? cache.format.packed : cache.format.tail;
  region.tokens_per_block =
      packed ? cache.format.packed_tokens_per_block : cache.format.tail_tokens_per_block;
  region.num_tokens = packed ? cache.num_packed : cache.num_cached - cache.num_packed;
  const int first = packed ? 0 : cpu::num_packed_blocks(cache);
  const int count = region.num_tokens == 0 ? 0 : cpu::ceil_div(region.num_tokens, region.tokens_per_block);
  region.blocks =
      at::tensor(at::ArrayRef<std::int32_t>(cache.blocks + first, static_cast<std::size_t>(count)), at::kInt)
          .to(at::kLong)
          .to(device);
  return region;
}

// [n, Hkv, rows, columns] codes of bytes [n, Hkv, rows, columns * bits / 8]: the first half of a row's
// columns are low nibbles.
at::Tensor unpack(const at::Tensor& bytes, KvDtype dtype) {
  if (dtype == KvDtype::kInt8) return bytes;
  return at::cat({bytes.bitwise_and(15), bytes.bitwise_right_shift(4)}, -1);
}
at::Tensor pack(const at::Tensor& codes, KvDtype dtype) {
  if (dtype == KvDtype::kInt8) return codes;
  const std::int64_t half = codes.size(-1) / 2;
  return codes.narrow(-1, 0, half)
      .bitwise_or(codes.narrow(-1, half, half).bitwise_left_shift(4))
      .contiguous();
}

// Views into bytes [n, Hkv, head bytes] of quantised blocks.
struct QuantisedViews {
  std::vector<at::Tensor> keys;  // per tile, [n, Hkv, D, tile bytes]
  at::Tensor values;             // [n, Hkv, T, token bytes]
  at::Tensor scales;             // [n, Hkv, 4, T] float16: K scale, K minimum, V scale, V minimum
};
QuantisedViews quantised_views(const at::Tensor& bytes, KvDtype dtype, int tokens, std::int64_t dim) {
  QuantisedViews views;
  const std::int64_t bits = cpu::code_bits(dtype);
  for (int offset = 0; offset < tokens; offset += kTileTokens) {
    const std::int64_t row = cpu::tile_width(tokens, offset) * bits / 8;
    views.keys.push_back(bytes.narrow(2, offset * dim * bits / 8, dim * row).unflatten(2, {dim, row}));
  }
  const std::int64_t code_bytes = tokens * dim * bits / 8;
  views.values = bytes.narrow(2, code_bytes, code_bytes).unflatten(2, {tokens, dim * bits / 8});
  views.scales = bytes.narrow(2, 2 * code_bytes, 8 * tokens).view(at::kHalf).unflatten(2, {4, tokens});
  return views;
}

// [n, Hkv, T, D] -> [Hkv, num_tokens, D]
at::Tensor in_slot_order(const at::Tensor& blocks, int num_tokens) {
  return blocks.transpose(0, 1).flatten(1, 2).narrow(1, 0, num_tokens);
}

std::pair<at::Tensor, at::Tensor> read_region(const Region& region, const KvStorage& kv) {
  const std::int64_t dim = kv.layout().head_dim;
  const at::Tensor bytes = kv.bytes().index_select(0, region.blocks);
  if (!is_quantised(region.dtype)) {
    const at::Tensor elements = bytes.view(scalar_type(region.dtype));
    const std::int64_t half = region.tokens_per_block * dim;
    const at::Tensor k =
        elements.narrow(2, 0, half).unflatten(2, {-1, dim, kTileTokens}).transpose(3, 4).flatten(2, 3);
    const at::Tensor v = elements.narrow(2, half, half).unflatten(2, {-1, dim});
    return {in_slot_order(k, region.num_tokens).to(at::kFloat),
            in_slot_order(v, region.num_tokens).to(at::kFloat)};
  }
  const QuantisedViews views = quantised_views(bytes, region.dtype, region.tokens_per_block, dim);
  std::vector<at::Tensor> tiles;
  for (const at::Tensor& tile : views.keys) tiles.push_back(unpack(tile, region.dtype).transpose(2, 3));
  const at::Tensor k = at::cat(tiles, 2).to(at::kFloat);
  const at::Tensor v = unpack(views.values, region.dtype).to(at::kFloat);
  const auto scale = [&](int kind) { return views.scales.select(2, kind).to(at::kFloat).unsqueeze(-1); };
  return {in_slot_order(k * scale(0) + scale(1), region.num_tokens),
          in_slot_order(v * scale(2) + scale(3), region.num_tokens)};
}

struct QuantisedTokens {
  at::Tensor codes;    // uint8, as the input
  at::Tensor scale;    // [..., T] float16
  at::Tensor minimum;  // [..., T] float16
};
// One scale and minimum per token over its last dimension.
QuantisedTokens quantise(const at::Tensor& x, KvDtype dtype) {
  const double levels = dtype == KvDtype::kInt4 ? 15 : 255;
  const at::Tensor low = x.amin(-1);
  QuantisedTokens q;
  q.minimum = low.to(at::kHalf);
  q.scale = ((x.amax(-1) - low) / levels).to(at::kHalf);
  const at::Tensor step = q.scale.to(at::kFloat).unsqueeze(-1);
  const at::Tensor inverse = at::where(step > 0, step.reciprocal(), at::zeros_like(step));
  q.codes = ((x - q.minimum.to(at::kFloat).unsqueeze(-1)) * inverse).round().clamp(0, levels).to(at::kByte);
  return q;
}

// k, v [Hkv, num_tokens, D] float32 over all of the region's slots.
void write_region(const Region& region, const at::Tensor& k, const at::Tensor& v, KvStorage& kv) {
  const std::int64_t dim = kv.layout().head_dim;
  const std::int64_t n = region.blocks.size(0);
  const std::int64_t padding = n * region.tokens_per_block - region.num_tokens;
  const auto by_block = [&](const at::Tensor& x) {  // [n, Hkv, T, D]
    return at::constant_pad_nd(x, {0, 0, 0, padding})
        .unflatten(1, {n, region.tokens_per_block})
        .transpose(0, 1);
  };
  at::Tensor bytes = kv.bytes().index_select(0, region.blocks);
  if (!is_quantised(region.dtype)) {
    at::Tensor elements = bytes.view(scalar_type(region.dtype));
    const std::int64_t half = region.tokens_per_block * dim;
    elements.narrow(2, 0, half).copy_(by_block(k).unflatten(2, {-1, kTileTokens}).transpose(3, 4).flatten(2));
    elements.narrow(2, half, half).copy_(by_block(v).flatten(2));
  } else {
    QuantisedViews views = quantised_views(bytes, region.dtype, region.tokens_per_block, dim);
    const QuantisedTokens keys = quantise(by_block(k), region.dtype);
    const QuantisedTokens values = quantise(by_block(v), region.dtype);
    for (std::size_t tile = 0; tile < views.keys.size(); ++tile) {
      const int offset = static_cast<int>(tile) * kTileTokens;
      const at::Tensor codes = keys.codes.narrow(2, offset, cpu::tile_width(region.tokens_per_block, offset));
      views.keys[tile].copy_(pack(codes.transpose(2, 3), region.dtype));
    }
    views.values.copy_(pack(values.codes, region.dtype));
    views.scales.copy_(at::stack({keys.scale, keys.minimum, values.scale, values.minimum}, 2));
  }
  at::Tensor all = kv.bytes();
  all.index_copy_(0, region.blocks, bytes);
}

}  // namespace

void write_float_slot(const cpu::CachedLayer& cache, int slot, const at::Tensor& k, const at::Tensor& v,
                      KvStorage& kv) {
  const cpu::KvTile tile = cpu::tile_of_slot(cache, slot);
  KVCRUSH_CHECK(!is_quantised(tile.dtype));
  const std::int64_t dim = kv.layout().head_dim;
  const at::Tensor elements = kv.bytes()[tile.block].view(scalar_type(tile.dtype));  // [Hkv, 2 T D]
  const int column = slot - tile.first_slot;
  elements.narrow(1, tile.offset * dim, dim * kTileTokens)
      .unflatten(1, {dim, kTileTokens})
      .select(2, column)
      .copy_(k);
  elements.narrow(1, (tile.tokens_per_block + tile.offset + column) * dim, dim).copy_(v);
}

std::pair<at::Tensor, at::Tensor> read_cached(const cpu::CachedLayer& cache, const KvStorage& kv) {
  const auto tail = read_region(make_region(cache, false, kv.device()), kv);
  if (cache.num_packed == 0) return tail;
  const auto packed = read_region(make_region(cache, true, kv.device()), kv);
  return {at::cat({packed.first, tail.first}, 1), at::cat({packed.second, tail.second}, 1)};
}

// Quantised tokens are quantised anew, which gives the same codes: scale and minimum are those of the values.
void rewrite(std::span<const int> sources, const cpu::CachedLayer& from, const cpu::CachedLayer& to,
             KvStorage& kv) {
  const std::int64_t num_heads = kv.layout().num_kv_heads;
  const auto num_sets = static_cast<std::int64_t>(sources.size()) / to.num_cached;
  KVCRUSH_CHECK(num_sets == 1 || num_sets == num_heads);
  const at::Tensor index = at::tensor(at::ArrayRef<int>(sources.data(), sources.size()), at::kInt)
                               .to(at::kLong)
                               .to(kv.device())
                               .view({num_sets, to.num_cached, 1})
                               .expand({num_heads, to.num_cached, kv.layout().head_dim});
  const auto [k, v] = read_cached(from, kv);
  const at::Tensor kept_k = k.gather(1, index);
  const at::Tensor kept_v = v.gather(1, index);
  const std::int64_t packed = to.num_packed;
  const std::int64_t rest = to.num_cached - packed;
  if (packed > 0)
    write_region(make_region(to, true, kv.device()), kept_k.narrow(1, 0, packed), kept_v.narrow(1, 0, packed),
                 kv);
  if (rest > 0)
    write_region(make_region(to, false, kv.device()), kept_k.narrow(1, packed, rest),
                 kept_v.narrow(1, packed, rest), kv);
}

}  // namespace kvcrush::reference
