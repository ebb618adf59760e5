// Random inputs for kernel tests: a pool with sequences spread over scattered blocks.
#pragma once

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <deque>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "engine/kernels/ops.h"

namespace kvcrush::testing {

inline at::Tensor random_tensor(std::initializer_list<std::int64_t> shape, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  at::Tensor tensor = at::empty(shape, at::kFloat);
  float* data = tensor.data_ptr<float>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) data[i] = normal(engine);
  return tensor;
}

// Largest |a - b|, for messages and tolerances.
inline double max_difference(const at::Tensor& a, const at::Tensor& b) {
  return a.numel() == 0 ? 0.0 : (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

struct SequenceShape {
  int num_cached = 0;
  int num_queries = 0;
};

// A pool, and sequences whose earlier tokens are already in it, all but the last few of them packed where the
// dtype is quantised. Queries of all sequences follow each other in `qkv`.
struct PagedCase {
  HeadLayout heads;
  cpu::KvFormat format;
  KvStorage kv;
  std::vector<PagedSequence> sequences;
  at::Tensor qkv;                           // [sum of num_queries, qkv_width]
  std::deque<std::vector<BlockId>> tables;  // addresses stay

  PagedCase(const HeadLayout& layout, KvDtype dtype, const std::vector<SequenceShape>& shapes,
            std::uint64_t seed)
      : heads(layout),
        format(make_kv_format(dtype, layout.head_dim)),
        kv({layout.num_kv_heads, layout.head_dim}, num_pool_blocks(shapes), at::kCPU) {
    at::Tensor bytes = kv.bytes();
    bytes.fill_(255);  // NaN: a slot nobody wrote must not matter
    free_.resize(static_cast<std::size_t>(bytes.size(0)));
    std::iota(free_.begin(), free_.end(), 0);
    std::shuffle(free_.begin(), free_.end(), std::mt19937_64(seed));
    int rows = 0;
    for (const SequenceShape& shape : shapes) rows += shape.num_queries;
    qkv = random_tensor({rows, heads.qkv_width()}, seed + 1);
    int row = 0;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      sequences.push_back({row, shapes[i].num_queries, new_cache(shapes[i], format)});
      fill_earlier_tokens(sequences.back().cache, shapes[i].num_cached - shapes[i].num_queries, seed + 2 + i);
      row += shapes[i].num_queries;
    }
  }

  // Takes blocks for a sequence.
  cpu::CachedLayer new_cache(const SequenceShape& shape, const cpu::KvFormat& in) {
    cpu::CachedLayer cache{nullptr, num_packed_of(shape, in), shape.num_cached, in};
    const auto blocks = static_cast<std::size_t>(num_blocks_of(cache));
    tables.emplace_back(free_.end() - static_cast<std::ptrdiff_t>(blocks), free_.end());
    free_.resize(free_.size() - blocks);
    cache.blocks = tables.back().data();
    return cache;
  }

  void fill_earlier_tokens(cpu::CachedLayer cache, int count, std::uint64_t seed) {
    if (count == 0) return;
    const at::Tensor earlier = random_tensor({count, heads.qkv_width()}, seed);
    const cpu::CachedLayer staging =
        new_cache({count, count}, make_kv_format(cache.format.tail, heads.head_dim));
    const PagedSequence whole{0, count, staging};
    reference::kv_append(earlier, heads, {&whole, 1}, kv);
    cache.num_cached = count;
    std::vector<int> all(static_cast<std::size_t>(count));
    std::iota(all.begin(), all.end(), 0);
    reference::rewrite(all, staging, cache, kv);
  }

  static int num_packed_of(const SequenceShape& shape, const cpu::KvFormat& in) {
    constexpr int kUnpacked = 5;
    return in.packed_tokens_per_block == 0 ? 0
                                           : std::max(0, shape.num_cached - shape.num_queries - kUnpacked);
  }
  static int num_blocks_of(const cpu::CachedLayer& cache) {
    return cpu::num_packed_blocks(cache) +
           cpu::ceil_div(cache.num_cached - cache.num_packed, cache.format.tail_tokens_per_block);
  }
  static int num_pool_blocks(const std::vector<SequenceShape>& shapes) {
    int total = 0;
    for (const SequenceShape& shape : shapes)
      total += 8 + 2 * shape.num_cached / 8;  // staging too, any dtype
    return total;
  }

 private:
  std::vector<BlockId> free_;
};

// Tests over (index of a case, dtype).
inline auto all_kv_dtypes() {
  return ::testing::Values(KvDtype::kF32, KvDtype::kBF16, KvDtype::kF16, KvDtype::kInt8, KvDtype::kInt4);
}
inline std::string case_name(const ::testing::TestParamInfo<std::tuple<int, KvDtype>>& info) {
  return "Case" + std::to_string(std::get<0>(info.param)) + "_" +
         std::string(to_string(std::get<1>(info.param)));
}

}  // namespace kvcrush::testing
