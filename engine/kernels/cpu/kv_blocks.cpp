#include "engine/kernels/cpu/kv_blocks.h"

#include <bit>
#include <cstring>

namespace kvcrush::cpu {

namespace {

struct AsF32 {
  using Stored = float;
  static float convert(float x) { return x; }
};
struct AsBF16 {
  using Stored = std::uint16_t;
  static std::uint16_t convert(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >>
                                      16);  // to nearest, ties to even
  }
};
struct AsF16 {
  using Stored = std::uint16_t;
  // To nearest, ties to even, by integer arithmetic on the bits: not every compiler has a half type for every
  // machine.
  static std::uint16_t convert(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t sign = (bits >> 16) & 0x8000;
    std::uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude >= 0x47800000)
      return static_cast<std::uint16_t>(sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00));
    if (magnitude < 0x38800000) {  // subnormal: adding 0.5 aligns the mantissa, and rounds
      magnitude = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000;
    } else {
      magnitude = (magnitude - (112U << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    }
    return static_cast<std::uint16_t>(sign | magnitude);
  }
};

template <typename Format>
void write_as(const KvPool& pool, std::int32_t block, int offset, const float* k, const float* v) {
  using Stored = typename Format::Stored;
  const int head_elements = pool.head_dim * kBlockTokens;
  auto* keys = reinterpret_cast<Stored*>(pool.base + block * pool.block_bytes);
  auto* values = keys + static_cast<std::ptrdiff_t>(pool.num_kv_heads) * head_elements;
  for (int h = 0; h < pool.num_kv_heads; ++h) {
    for (int d = 0; d < pool.head_dim; ++d) {
      keys[h * head_elements + d * kBlockTokens + offset] = Format::convert(k[h * pool.head_dim + d]);
      values[h * head_elements + offset * pool.head_dim + d] = Format::convert(v[h * pool.head_dim + d]);
    }
  }
}

template <typename Stored>
void compact_as(const KvPool& pool, const std::int32_t* blocks, int kv_head, const int* kept, int num_kept) {
  const std::ptrdiff_t head_elements = static_cast<std::ptrdiff_t>(pool.head_dim) * kBlockTokens;
  const auto keys_of = [&](int slot) {
    return reinterpret_cast<Stored*>(pool.base + blocks[slot / kBlockTokens] * pool.block_bytes) +
           kv_head * head_elements;
  };
  for (int i = 0; i < num_kept; ++i) {
    if (kept[i] == i) continue;
    Stored* to_keys = keys_of(i);
    const Stored* from_keys = keys_of(kept[i]);
    const int to = i % kBlockTokens;
    const int from = kept[i] % kBlockTokens;
    for (int d = 0; d < pool.head_dim; ++d)
      to_keys[d * kBlockTokens + to] = from_keys[d * kBlockTokens + from];
    const std::ptrdiff_t values = pool.num_kv_heads * head_elements;
    std::memcpy(to_keys + values + static_cast<std::ptrdiff_t>(to) * pool.head_dim,
                from_keys + values + static_cast<std::ptrdiff_t>(from) * pool.head_dim,
                sizeof(Stored) * pool.head_dim);
  }
}

}  // namespace

void write_token(const KvPool& pool, std::int32_t block, int offset, const float* k, const float* v) {
  switch (pool.element) {
    case KvElement::kF32:
      return write_as<AsF32>(pool, block, offset, k, v);
    case KvElement::kBF16:
      return write_as<AsBF16>(pool, block, offset, k, v);
    case KvElement::kF16:
      return write_as<AsF16>(pool, block, offset, k, v);
  }
}

void compact_head(const KvPool& pool, const std::int32_t* blocks, int kv_head, const int* kept,
                  int num_kept) {
  if (pool.element == KvElement::kF32) return compact_as<float>(pool, blocks, kv_head, kept, num_kept);
  compact_as<std::uint16_t>(pool, blocks, kv_head, kept, num_kept);
}

}  // namespace kvcrush::cpu
