#include "engine/kernels/cpu/kv_blocks.h"

#include <algorithm>
#include <cstring>

#include "engine/core/status.h"
#include "engine/kernels/cpu/half.h"

namespace kvcrush::cpu {

namespace {

template <typename Stored, typename Convert>
void write_as(const KvPool& pool, const KvTile& tile, int column, const float* k, const float* v,
              const Convert& convert) {
  const std::ptrdiff_t tile_start = static_cast<std::ptrdiff_t>(tile.offset) * pool.head_dim + column;
  const std::ptrdiff_t value_start =
      static_cast<std::ptrdiff_t>(tile.tokens_per_block + tile.offset + column) * pool.head_dim;
  for (int h = 0; h < pool.num_kv_heads; ++h) {
    auto* head = reinterpret_cast<Stored*>(head_base(pool, tile.block, h));
    const float* key = k + static_cast<std::ptrdiff_t>(h) * pool.head_dim;
    const float* value = v + static_cast<std::ptrdiff_t>(h) * pool.head_dim;
    for (int d = 0; d < pool.head_dim; ++d) head[tile_start + d * kTileTokens] = convert(key[d]);
    for (int d = 0; d < pool.head_dim; ++d) head[value_start + d] = convert(value[d]);
  }
}

// One block of the target layout: its slots and how they are stored.
struct BlockSlots {
  int index = 0;  // in the block table
  int first_slot = 0;
  int count = 0;
  KvDtype dtype = KvDtype::kF32;
};

template <typename Visit>
void for_each_block(const CachedLayer& layer, const Visit& visit) {
  const int packed_per_block = layer.format.packed_tokens_per_block;
  int index = 0;
  for (int slot = 0; slot < layer.num_packed; slot += packed_per_block) {
    visit(
        BlockSlots{index++, slot, std::min(packed_per_block, layer.num_packed - slot), layer.format.packed});
  }
  const int per_block = layer.format.tail_tokens_per_block;
  for (int slot = layer.num_packed; slot < layer.num_cached; slot += per_block) {
    visit(BlockSlots{index++, slot, std::min(per_block, layer.num_cached - slot), layer.format.tail});
  }
}

// The block holds these very slots already, in the same places.
bool is_unchanged(const CachedLayer& from, const CachedLayer& to, const BlockSlots& block,
                  const int* sources) {
  const bool packed = block.first_slot < to.num_packed;
  const bool same_layout = packed ? block.first_slot + block.count <= from.num_packed
                                  : from.num_packed == to.num_packed && from.format.tail == to.format.tail;
  if (!same_layout || block.first_slot + block.count > from.num_cached ||
      from.blocks[block.index] != to.blocks[block.index]) {
    return false;
  }
  for (int i = 0; i < block.count; ++i) {
    if (sources[block.first_slot + i] != block.first_slot + i) return false;
  }
  return true;
}

}  // namespace

void write_token(const KvPool& pool, const CachedLayer& cache, int slot, const float* k, const float* v) {
  const KvTile tile = tile_of_slot(cache, slot);
  const int column = slot - tile.first_slot;
  switch (tile.dtype) {
    case KvDtype::kF32:
      return write_as<float>(pool, tile, column, k, v, [](float x) { return x; });
    case KvDtype::kBF16:
      return write_as<std::uint16_t>(pool, tile, column, k, v, [](float x) { return f32_to_bf16(x); });
    case KvDtype::kF16:
      return write_as<std::uint16_t>(pool, tile, column, k, v, [](float x) { return f32_to_f16(x); });
    case KvDtype::kInt8:
    case KvDtype::kInt4:
      break;
  }
  KVCRUSH_CHECK(!is_quantised(tile.dtype));  // new tokens enter through the tail
}

void rewrite_head(const KvPool& pool, const CachedLayer& from, const CachedLayer& to, int kv_head,
                  const int* sources, float* scratch, std::byte* staging) {
  for_each_block(to, [&](const BlockSlots& block) {
    if (is_unchanged(from, to, block, sources)) return;
    cpu_kernels().gather_block(pool, from, kv_head, sources + block.first_slot, block.count, block.dtype,
                               scratch, staging);
    std::memcpy(head_base(pool, to.blocks[block.index], kv_head), staging,
                static_cast<std::size_t>(head_bytes(pool)));
  });
}

bool can_rewrite_in_place(const CachedLayer& from, const CachedLayer& to) {
  const int more_packed_blocks = num_packed_blocks(to) - num_packed_blocks(from);
  const int left_tail = (from.num_cached - from.num_packed) - (to.num_cached - to.num_packed);
  return more_packed_blocks <= 0 || left_tail >= more_packed_blocks * to.format.tail_tokens_per_block;
}

}  // namespace kvcrush::cpu
