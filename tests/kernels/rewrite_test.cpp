// Compaction, quantisation and forks: blocks written from tokens that lie anywhere in a cached layer.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/kernels/rewrite_cases.h"

namespace kvcrush {
namespace {

using testing::expect_no_drift;
using testing::kHeads;
using testing::max_difference;
using testing::PagedCase;
using testing::random_sources;
using testing::random_tensor;
using testing::rewrite_all_heads;

class RewriteTest : public ::testing::TestWithParam<KvDtype> {};

// Into new blocks: what a fork does. Float dtypes keep their bits; a quantised token is off by half a step.
TEST_P(RewriteTest, ForkMatchesReference) {
  for (const KvDtype trunk : {KvDtype::kF32, KvDtype::kF16}) {
    PagedCase paged(kHeads, trunk, {{300, 0}}, 3);
    const cpu::CachedLayer& from = paged.sequences[0].cache;
    const cpu::KvFormat format = make_kv_format(GetParam(), kHeads.head_dim);
    for (const int num_sets : {1, 3}) {
      cpu::CachedLayer to = paged.new_cache({150, 0}, format);
      cpu::CachedLayer expected = paged.new_cache({150, 0}, format);
      to.num_packed = expected.num_packed = is_quantised(GetParam()) ? 118 : 0;
      const std::vector<int> sources = random_sources(300, 150, 32, num_sets, 4);
      rewrite_all_heads(paged.kv, from, to, sources);
      reference::rewrite(sources, from, expected, paged.kv);
      const auto [k, v] = reference::read_cached(to, paged.kv);
      const auto [expected_k, expected_v] = reference::read_cached(expected, paged.kv);
      // The same codes but where x lies on the edge between two: then one step, range / levels, apart.
      const double step =
          GetParam() == KvDtype::kInt4 ? 12.0 / 15 : (GetParam() == KvDtype::kInt8 ? 12.0 / 255 : 0);
      EXPECT_LE(max_difference(k, expected_k), step);
      EXPECT_LE(max_difference(v, expected_v), step);
      EXPECT_LT(((k - expected_k).abs() > 1e-6).to(at::kFloat).mean().item<double>(), 1e-3);
      EXPECT_LT(((v - expected_v).abs() > 1e-6).to(at::kFloat).mean().item<double>(), 1e-3);
    }
  }
}

// Every pattern of prune and pack that a sequence goes through, in place, equals the same into new blocks.
TEST_P(RewriteTest, InPlaceEqualsIntoNewBlocks) {
  const cpu::KvFormat format = make_kv_format(GetParam(), kHeads.head_dim);
  const bool quantised = is_quantised(GetParam());
  std::mt19937_64 engine(11);
  int num_checked = 0;
  for (int round = 0; round < 60; ++round) {
    const int num_cached = 33 + static_cast<int>(engine() % 500);
    PagedCase paged(kHeads, GetParam(), {{num_cached, 0}}, 100 + round);
    cpu::CachedLayer from = paged.sequences[0].cache;
    if (quantised) {  // another split into packed and tail than the fixture's
      const int window = 1 + static_cast<int>(engine() % 64);
      const int tail = std::min(num_cached, window + static_cast<int>(engine() % 150));
      cpu::CachedLayer split =
          paged.new_cache({num_cached, 0}, make_kv_format(KvDtype::kF32, kHeads.head_dim));
      split.format = format;  // float32 took blocks enough for any split
      split.num_packed = num_cached - tail;
      std::vector<int> all = random_sources(num_cached, num_cached, 0, 1, 0);
      reference::rewrite(all, from, split, paged.kv);
      from = split;
    }
    const int old_tail = from.num_cached - from.num_packed;
    const int new_tail = quantised ? 1 + static_cast<int>(engine() % std::min(old_tail, 32)) : 1;
    const int kept = new_tail + static_cast<int>(engine() % (num_cached - new_tail + 1));
    cpu::CachedLayer to = from;
    to.num_cached = kept;
    to.num_packed = quantised ? kept - new_tail : 0;
    if (!cpu::can_rewrite_in_place(from, to) || PagedCase::num_blocks_of(to) > PagedCase::num_blocks_of(from))
      continue;
    const int num_sets = round % 2 == 0 ? 1 : 3;
    const std::vector<int> sources = random_sources(num_cached, kept, new_tail, num_sets, round);
    cpu::CachedLayer apart = paged.new_cache({kept, 0}, format);
    apart.num_packed = to.num_packed;
    rewrite_all_heads(paged.kv, from, apart, sources);
    rewrite_all_heads(paged.kv, from, to, sources);
    const auto [k, v] = reference::read_cached(to, paged.kv);
    const auto [expected_k, expected_v] = reference::read_cached(apart, paged.kv);
    ASSERT_TRUE(at::equal(k, expected_k)) << "round " << round;
    ASSERT_TRUE(at::equal(v, expected_v)) << "round " << round;
    ++num_checked;
  }
  EXPECT_GT(num_checked, 30);
}

// A quantised token is not quantised again when it moves: its value stays to the bit, however often.
TEST_P(RewriteTest, RepeatedPruningDoesNotDrift) {
  expect_no_drift(GetParam(), rewrite_all_heads);
}

// Distance to the exact values: half a step of the token's own range and float16's rounding of scale and
// minimum, or the float dtype's own rounding.
TEST_P(RewriteTest, RoundingIsWithinHalfAStep) {
  PagedCase exact(kHeads, KvDtype::kF32, {{200, 0}}, 9);
  cpu::CachedLayer to = exact.new_cache({200, 0}, make_kv_format(GetParam(), kHeads.head_dim));
  to.num_packed = is_quantised(GetParam()) ? 200 : 0;
  rewrite_all_heads(exact.kv, exact.sequences[0].cache, to, random_sources(200, 200, 0, 1, 0));
  const auto [k, v] = reference::read_cached(to, exact.kv);
  const auto [exact_k, exact_v] = reference::read_cached(exact.sequences[0].cache, exact.kv);
  for (const auto& [got, wanted] : {std::pair{k, exact_k}, std::pair{v, exact_v}}) {
    const at::Tensor range = wanted.amax(-1, true) - wanted.amin(-1, true);
    const at::Tensor largest = wanted.abs().amax(-1, true);
    at::Tensor allowed;
    if (is_quantised(GetParam())) {
      const double levels = GetParam() == KvDtype::kInt4 ? 15 : 255;
      allowed = range / levels * 0.5 + (range + largest) * 0x1p-10;
    } else {
      allowed =
          largest * (GetParam() == KvDtype::kF32 ? 0 : (GetParam() == KvDtype::kF16 ? 0x1p-11 : 0x1p-8));
    }
    EXPECT_TRUE(((got - wanted).abs() <= allowed).all().item<bool>());
  }
}

std::string dtype_name(const ::testing::TestParamInfo<KvDtype>& info) {
  return std::string(to_string(info.param));
}
INSTANTIATE_TEST_SUITE_P(Dtypes, RewriteTest,
                         ::testing::Values(KvDtype::kF32, KvDtype::kBF16, KvDtype::kF16, KvDtype::kInt8,
                                           KvDtype::kInt4),
                         dtype_name);

}  // namespace
}  // namespace kvcrush
