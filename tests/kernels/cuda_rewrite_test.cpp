// The GPU's compaction, quantisation and forks, run by the simulator. Its bits are those of the CPU: floats
// are rounded the same way, codes and scales come from the same operations in the same order.
#include <gtest/gtest.h>

#include "engine/kernels/cuda/rewrite.h"
#include "tests/kernels/rewrite_cases.h"

namespace kvcrush {
namespace {

using testing::expect_no_drift;
using testing::kHeads;
using testing::max_difference;
using testing::PagedCase;
using testing::random_sources;
using testing::rewrite_all_heads;

constexpr KvDtype kFloats[] = {KvDtype::kF32, KvDtype::kBF16, KvDtype::kF16};

cuda::RewriteJob make_job(const KvStorage& kv, const cpu::CachedLayer& from, const cpu::CachedLayer& to,
                          const std::vector<int>& sources) {
  const bool per_head = sources.size() > static_cast<std::size_t>(to.num_cached);
  return {
      .from = from, .to = to, .sources = sources.data(), .num_sets = per_head ? kv.layout().num_kv_heads : 1};
}

void rewrite_on_gpu(const KvStorage& kv, const cpu::CachedLayer& from, const cpu::CachedLayer& to,
                    const std::vector<int>& sources) {
  const cuda::RewriteJob job = make_job(kv, from, to, sources);
  cuda::rewrite(kv.cpu_pool(), &job, 1, nullptr);
}

template <typename Element>
Element element_at(const std::byte* base, std::ptrdiff_t index) {
  Element element;
  std::memcpy(&element, base + index * static_cast<std::ptrdiff_t>(sizeof(Element)), sizeof(Element));
  return element;
}

// What is stored of all tokens: elements, or codes, scales and minima.
std::vector<std::uint32_t> stored_bits(const KvStorage& kv, const cpu::CachedLayer& cache) {
  std::vector<std::uint32_t> bits;
  const int dim = kv.layout().head_dim;
  for (int h = 0; h < kv.layout().num_kv_heads; ++h) {
    for (int slot = 0; slot < cache.num_cached; ++slot) {
      const cpu::KvTile tile = cpu::tile_of_slot(cache, slot);
      const int column = slot - tile.first_slot;
      const int in_block = tile.offset + column;
      std::byte* head = cpu::head_base(kv.cpu_pool(), tile.block, h);
      if (!is_quantised(tile.dtype)) {
        for (int d = 0; d < 2 * dim; ++d) {
          const std::ptrdiff_t index =
              d < dim ? tile.offset * dim + d * cpu::kTileTokens + column
                      : static_cast<std::ptrdiff_t>(tile.tokens_per_block + in_block) * dim + d - dim;
          bits.push_back(tile.dtype == KvDtype::kF32 ? element_at<std::uint32_t>(head, index)
                                                     : element_at<std::uint16_t>(head, index));
        }
        continue;
      }
      const auto q = cpu::quantised_head(head, tile.dtype, tile.tokens_per_block, dim);
      const auto code = [&](const std::byte* row, int index, int count) {
        if (tile.dtype == KvDtype::kInt8) return std::to_integer<std::uint32_t>(row[index]);
        const auto byte = std::to_integer<std::uint32_t>(row[index % (count / 2)]);
        return index < count / 2 ? byte & 15 : byte >> 4;
      };
      const int per_byte = 8 / cpu::code_bits(tile.dtype);
      const int width = cpu::tile_width(tile.tokens_per_block, tile.offset);
      for (int d = 0; d < dim; ++d) {
        bits.push_back(code(q.keys + (tile.offset * dim + d * width) / per_byte, column, width));
        bits.push_back(code(q.values + in_block * dim / per_byte, d, dim));
      }
      for (const std::uint16_t* scales : {q.key_scales, q.key_minima, q.value_scales, q.value_minima})
        bits.push_back(scales[in_block]);
    }
  }
  return bits;
}

// The pool without a sequence's blocks.
at::Tensor other_blocks(const KvStorage& kv, const cpu::CachedLayer& without) {
  at::Tensor bytes = kv.bytes().clone();
  for (int i = 0; i < PagedCase::num_blocks_of(without); ++i) bytes[without.blocks[i]].fill_(0);
  return bytes;
}

class CudaRewriteTest : public ::testing::TestWithParam<KvDtype> {
 protected:
  static bool quantised() { return is_quantised(GetParam()); }
};

TEST_P(CudaRewriteTest, ForkEqualsTheCpu) {
  for (const int head_dim : {16, 64, 96, 128, 256}) {
    const HeadLayout heads{4, 2, head_dim};
    const cpu::KvFormat format = make_kv_format(GetParam(), head_dim);
    for (const KvDtype trunk : kFloats) {
      PagedCase paged(heads, trunk, {{200, 0}, {600, 0}}, 3);
      for (const int num_sets : {1, 2}) {
        cpu::CachedLayer to = paged.new_cache({141, 0}, format);
        cpu::CachedLayer expected = paged.new_cache({141, 0}, format);
        to.num_packed = expected.num_packed = quantised() ? 141 - 9 * num_sets : 0;
        const std::vector<int> sources = random_sources(200, 141, 18, num_sets, 4);
        const at::Tensor others = other_blocks(paged.kv, to);
        rewrite_on_gpu(paged.kv, paged.sequences[0].cache, to, sources);
        EXPECT_TRUE(at::equal(other_blocks(paged.kv, to), others));
        rewrite_all_heads(paged.kv, paged.sequences[0].cache, expected, sources);
        ASSERT_EQ(stored_bits(paged.kv, to), stored_bits(paged.kv, expected))
            << head_dim << " channels from " << to_string(trunk);
      }
    }
  }
}

// Tokens without a range, with one that float16 cannot hold, and with one that it only holds as a subnormal.
TEST_P(CudaRewriteTest, ExtremeTokensEqualTheCpu) {
  PagedCase paged(kHeads, KvDtype::kF32, {{40, 0}}, 5);
  const cpu::CachedLayer& from = paged.sequences[0].cache;
  const at::Tensor random = testing::random_tensor({2, kHeads.num_kv_heads * kHeads.head_dim}, 6);
  const auto write = [&](int slot, const at::Tensor& kv) {
    cpu::write_token(paged.kv.cpu_pool(), from, slot, kv[0].const_data_ptr<float>(),
                     kv[1].const_data_ptr<float>());
  };
  write(3, at::zeros_like(random));
  write(4, at::full_like(random, -1.7));
  write(9, random * 1e-6);
  write(21, random * 1e-9);
  write(33, random * 3e4);
  write(34, random * 1e9);
  cpu::CachedLayer to = paged.new_cache({40, 0}, make_kv_format(GetParam(), kHeads.head_dim));
  cpu::CachedLayer expected = paged.new_cache({40, 0}, to.format);
  to.num_packed = expected.num_packed = quantised() ? 40 : 0;
  const std::vector<int> all = random_sources(40, 40, 0, 1, 0);
  rewrite_on_gpu(paged.kv, from, to, all);
  rewrite_all_heads(paged.kv, from, expected, all);
  EXPECT_EQ(stored_bits(paged.kv, to), stored_bits(paged.kv, expected));
}

// Every pattern of prune and pack that a sequence goes through, in place, equals the same into new blocks.
TEST_P(CudaRewriteTest, InPlaceEqualsIntoNewBlocks) {
  const cpu::KvFormat format = make_kv_format(GetParam(), kHeads.head_dim);
  std::mt19937_64 engine(11);
  int grown = 0;
  int shrunk = 0;
  int num_checked = 0;
  for (int round = 0; round < 60; ++round) {
    const int num_cached = 33 + static_cast<int>(engine() % 400);
    PagedCase paged(kHeads, GetParam(), {{num_cached, 0}}, 100 + round);
    cpu::CachedLayer from = paged.sequences[0].cache;
    if (quantised()) {  // another split into packed and tail than the fixture's
      const int window = 1 + static_cast<int>(engine() % 64);
      const int tail = std::min(num_cached, window + static_cast<int>(engine() % 150));
      cpu::CachedLayer split =
          paged.new_cache({num_cached, 0}, make_kv_format(KvDtype::kF32, kHeads.head_dim));
      split.format = format;  // float32 took blocks enough for any split
      split.num_packed = num_cached - tail;
      reference::rewrite(random_sources(num_cached, num_cached, 0, 1, 0), from, split, paged.kv);
      from = split;
    }
    const int old_tail = from.num_cached - from.num_packed;
    const int new_tail = quantised() ? 1 + static_cast<int>(engine() % std::min(old_tail, 32)) : 1;
    const int kept =  // sometimes all: packed, but not pruned
        round % 3 == 0 ? num_cached : new_tail + static_cast<int>(engine() % (num_cached - new_tail + 1));
    cpu::CachedLayer to = from;
    to.num_cached = kept;
    to.num_packed = quantised() ? kept - new_tail : 0;
    if (!cpu::can_rewrite_in_place(from, to) || PagedCase::num_blocks_of(to) > PagedCase::num_blocks_of(from))
      continue;
    const int num_sets = round % 2 == 0 ? 1 : 3;
    const std::vector<int> sources = random_sources(num_cached, kept, new_tail, num_sets, round);
    cpu::CachedLayer apart = paged.new_cache({kept + 8, 0}, format);  // a packed block even for one token
    apart.num_cached = kept;
    apart.num_packed = to.num_packed;
    rewrite_all_heads(paged.kv, from, apart, sources);
    const std::vector<std::uint32_t> expected = stored_bits(paged.kv, apart);
    rewrite_on_gpu(paged.kv, from, apart, sources);
    ASSERT_EQ(stored_bits(paged.kv, apart), expected) << "into new blocks, round " << round;
    rewrite_on_gpu(paged.kv, from, to, sources);
    ASSERT_EQ(stored_bits(paged.kv, to), expected) << "in place, round " << round;
    ++num_checked;
    grown += to.num_packed > from.num_packed ? 1 : 0;
    shrunk += to.num_packed < from.num_packed ? 1 : 0;
  }
  EXPECT_GT(num_checked, 30);
  if (quantised()) {
    EXPECT_GT(grown, 5);
    EXPECT_GT(shrunk, 5);
  }
}

// A quantised token is not quantised again when it moves: its value stays to the bit, however often.
TEST_P(CudaRewriteTest, RepeatedPruningDoesNotDrift) {
  expect_no_drift(GetParam(), rewrite_on_gpu);
}

// Layers of several sequences in one launch: forks of one trunk, a prune in place, a place that is not used.
TEST_P(CudaRewriteTest, ManyJobsInOneLaunch) {
  PagedCase paged(kHeads, KvDtype::kF16, {{120, 0}, {70, 0}}, 8);
  const auto fork = [&](int kept, KvDtype dtype) {
    // Half packed takes more blocks than the fixture's own split.
    cpu::CachedLayer to = paged.new_cache({kept + 64, 0}, make_kv_format(dtype, kHeads.head_dim));
    to.num_cached = kept;
    to.num_packed = is_quantised(dtype) ? kept / 2 : 0;
    return to;
  };
  const cpu::CachedLayer& trunk = paged.sequences[0].cache;
  const cpu::CachedLayer& pruned = paged.sequences[1].cache;
  const std::vector<int> kept[] = {random_sources(120, 90, 45, 3, 1), random_sources(120, 120, 60, 1, 2),
                                   random_sources(70, 40, 1, 3, 3)};
  cpu::CachedLayer in_place = pruned;
  in_place.num_cached = 40;
  const cpu::CachedLayer targets[] = {fork(90, GetParam()), fork(120, KvDtype::kInt4), in_place};
  const cpu::CachedLayer expected[] = {fork(90, GetParam()), fork(120, KvDtype::kInt4),
                                       fork(40, KvDtype::kF16)};
  std::vector<cuda::RewriteJob> jobs(1);
  for (int i = 0; i < 3; ++i) {
    const cpu::CachedLayer& from = i < 2 ? trunk : pruned;
    rewrite_all_heads(paged.kv, from, expected[i], kept[i]);
    jobs.push_back(make_job(paged.kv, from, targets[i], kept[i]));
  }
  cuda::rewrite(paged.kv.cpu_pool(), jobs.data(), static_cast<int>(jobs.size()), nullptr);
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(stored_bits(paged.kv, targets[i]), stored_bits(paged.kv, expected[i])) << "job " << i;
}

std::string dtype_name(const ::testing::TestParamInfo<KvDtype>& info) {
  return std::string(to_string(info.param));
}
INSTANTIATE_TEST_SUITE_P(Dtypes, CudaRewriteTest,
                         ::testing::Values(KvDtype::kF32, KvDtype::kBF16, KvDtype::kF16, KvDtype::kInt8,
                                           KvDtype::kInt4),
                         dtype_name);

}  // namespace
}  // namespace kvcrush
