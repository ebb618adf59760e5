// Random inputs for kernel tests: a pool with sequences spread over scattered blocks.
#pragma once

#include <ATen/ATen.h>

#include <numeric>
#include <random>
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

// A pool, and sequences whose earlier tokens are already in it. Queries of all sequences follow each other in
// `qkv`.
struct PagedCase {
  HeadLayout heads;
  KvStorage kv;
  std::vector<std::vector<BlockId>> tables;
  std::vector<PagedSequence> sequences;
  at::Tensor qkv;  // [sum of num_queries, qkv_width]

  PagedCase(const HeadLayout& layout, cpu::KvElement element, const std::vector<SequenceShape>& shapes,
            std::uint64_t seed)
      : heads(layout), kv({layout.num_kv_heads, layout.head_dim, element}, num_blocks_of(shapes), at::kCPU) {
    kv.keys().fill_(std::numeric_limits<float>::quiet_NaN());  // a slot nobody wrote must not matter
    kv.values().fill_(std::numeric_limits<float>::quiet_NaN());
    std::vector<BlockId> ids(num_blocks_of(shapes));
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937_64(seed));
    int rows = 0;
    for (const SequenceShape& shape : shapes) {
      const int blocks = (shape.num_cached + cpu::kBlockTokens - 1) / cpu::kBlockTokens;
      tables.emplace_back(ids.end() - blocks, ids.end());
      ids.resize(ids.size() - blocks);
      rows += shape.num_queries;
    }
    qkv = random_tensor({rows, heads.qkv_width()}, seed + 1);
    int row = 0;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      fill_earlier_tokens(i, shapes[i].num_cached - shapes[i].num_queries, seed + 2 + i);
      sequences.push_back({row, shapes[i].num_queries, shapes[i].num_cached, tables[i].data()});
      row += shapes[i].num_queries;
    }
  }

  void fill_earlier_tokens(std::size_t index, int count, std::uint64_t seed) {
    if (count == 0) return;
    const at::Tensor earlier = random_tensor({count, heads.qkv_width()}, seed);
    const PagedSequence whole{0, count, count, tables[index].data()};
    reference::kv_append(earlier, heads, {&whole, 1}, kv);
  }

  static int num_blocks_of(const std::vector<SequenceShape>& shapes) {
    int total = 0;
    for (const SequenceShape& shape : shapes)
      total += (shape.num_cached + cpu::kBlockTokens - 1) / cpu::kBlockTokens;
    return total;
  }
};

}  // namespace kvcrush::testing
