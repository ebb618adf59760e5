// The GPU's paged attention, run by the simulator, against the ATen reference.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "engine/kernels/cuda/cuda_kernels.h"
#include "tests/kernels/kernel_fixture.h"

namespace kvcrush {
namespace {

using testing::max_difference;
using testing::PagedCase;
using testing::SequenceShape;

struct CudaCase {
  HeadLayout heads;
  std::vector<SequenceShape> shapes;
};

const std::vector<CudaCase>& cases() {
  static const std::vector<CudaCase> all = {
      {{9, 3, 64}, {{1, 1}}},
      {{9, 3, 64}, {{16, 1}, {17, 1}, {15, 5}}},
      {{9, 3, 64}, {{600, 1}, {31, 31}, {48, 2}}},
      {{4, 4, 64}, {{33, 33}, {100, 20}, {7, 1}}},
      {{8, 1, 128}, {{70, 9}, {520, 1}}},
      {{8, 2, 128}, {{300, 41}, {64, 4}}},
      {{4, 2, 96}, {{140, 1}, {90, 40}}},
      {{2, 1, 256}, {{40, 20}, {300, 1}}},
  };
  return all;
}

// q, K, V and probabilities are rounded to float16, sums are float: errors are some units (2^-11) of the
// largest |V|, about 5, and of what the rounding of scores (up to 5, their errors as sqrt(head_dim) products)
// does to probabilities. 16-bit activations round the output once more.
double tolerance(cuda::ActivationType activations) {
  return 5.0 * std::ldexp(1.0, -11) * 4 +
         (activations == cuda::ActivationType::kBF16 ? 5.0 * std::ldexp(1.0, -8) : 0.0);
}

class CudaAttentionTest : public ::testing::TestWithParam<std::tuple<int, KvDtype>> {
 protected:
  static std::size_t case_number() { return static_cast<std::size_t>(std::get<0>(GetParam())); }
  static std::size_t dtype_number() { return static_cast<std::size_t>(std::get<1>(GetParam())); }
};

struct AttentionResult {
  at::Tensor out;
  at::Tensor stats;
};

AttentionResult run_on_gpu(const PagedCase& paged, const HeadLayout& heads,
                           std::span<const PagedSequence> sequences, cuda::ActivationType activations,
                           int num_processors) {
  const int group = heads.num_heads / heads.num_kv_heads;
  KvDtype widest = KvDtype::kF16;
  for (const KvDtype dtype : {paged.format.packed, paged.format.tail}) {
    if (dtype != KvDtype::kF16) widest = dtype;
  }
  const bool has_windows =
      std::ranges::any_of(sequences, [](const auto& s) { return s.cache.window.tokens > 0; });
  const cuda::AttentionPlan plan =
      cuda::plan_attention(sequences, group, heads.num_kv_heads, heads.head_dim, num_processors,
                           cuda::prefill_rows(heads.head_dim, widest, has_windows));
  const at::ScalarType type = activations == cuda::ActivationType::kF32   ? at::kFloat
                              : activations == cuda::ActivationType::kF16 ? at::kHalf
                                                                          : at::kBFloat16;
  const at::Tensor q = paged.qkv.to(type);
  at::Tensor out = at::full({q.size(0), heads.num_heads * heads.head_dim}, NAN, q.options());
  at::Tensor stats = at::full({q.size(0), heads.num_heads, 2}, NAN, at::kFloat);
  std::vector<float> partials(
      static_cast<std::size_t>(cuda::partial_floats(plan, heads.num_kv_heads, heads.head_dim)), NAN);
  std::vector<int> counters(plan.decode.size() * static_cast<std::size_t>(heads.num_kv_heads), 0);
  const cuda::AttentionCall call{.sequences = sequences.data(),
                                 .decode = plan.decode.data(),
                                 .prefill = plan.prefill.data(),
                                 .num_decode = static_cast<int>(plan.decode.size()),
                                 .num_prefill = static_cast<int>(plan.prefill.size()),
                                 .num_splits = plan.num_splits,
                                 .decode_rows = plan.decode_rows,
                                 .prefill_rows = plan.prefill_rows,
                                 .num_processors = num_processors,
                                 .pool = paged.kv.cpu_pool(),
                                 .widest = widest,
                                 .activations = activations,
                                 .q = q.const_data_ptr(),
                                 .q_stride = q.size(1),
                                 .num_heads = heads.num_heads,
                                 .scale = 1.0F / std::sqrt(static_cast<float>(heads.head_dim)),
                                 .out = out.data_ptr(),
                                 .row_stats = stats.data_ptr<float>(),
                                 .partials = partials.data(),
                                 .counters = counters.data()};
  cuda::paged_attention(call, nullptr);
  EXPECT_THAT(counters, ::testing::Each(0)) << "the next layer counts from zero";
  return {out.to(at::kFloat), stats};
}

// Splitting over blocks changes nothing but rounding.
void expect_matches(const PagedCase& paged, const HeadLayout& heads, std::span<const PagedSequence> sequences,
                    cuda::ActivationType activations) {
  at::Tensor expected = at::empty({paged.qkv.size(0), heads.num_heads * heads.head_dim}, at::kFloat);
  at::Tensor expected_stats = at::empty({paged.qkv.size(0), heads.num_heads, 2}, at::kFloat);
  const at::Tensor rounded =
      activations == cuda::ActivationType::kBF16 ? paged.qkv.to(at::kBFloat16).to(at::kFloat) : paged.qkv;
  reference::paged_attention(rounded, heads, sequences, paged.kv, expected, expected_stats);
  for (const int num_processors : {1, 22}) {
    const AttentionResult actual = run_on_gpu(paged, heads, sequences, activations, num_processors);
    EXPECT_LT(max_difference(actual.out, expected), tolerance(activations))
        << num_processors << " processors";
    EXPECT_LT(max_difference(actual.stats.select(2, 0), expected_stats.select(2, 0)), 0.02);
    const at::Tensor ratio = actual.stats.select(2, 1) / expected_stats.select(2, 1);
    EXPECT_LT(max_difference(ratio, at::ones_like(ratio)), 0.03);
  }
}

TEST_P(CudaAttentionTest, MatchesReference) {
  const CudaCase& c = cases().at(static_cast<std::size_t>(std::get<0>(GetParam())));
  PagedCase paged(c.heads, std::get<1>(GetParam()), c.shapes, 17);
  ops::kv_append(paged.qkv, c.heads, paged.sequences, paged.kv);
  const auto activations = static_cast<cuda::ActivationType>(std::get<0>(GetParam()) % 3);
  expect_matches(paged, c.heads, paged.sequences, activations);
}

TEST_P(CudaAttentionTest, BranchesSeeTheirOwnSlotsOnly) {
  const CudaCase& c = cases().at(static_cast<std::size_t>(std::get<0>(GetParam())));
  const int shared = std::max(1, c.shapes[0].num_cached - c.shapes[0].num_queries);
  PagedCase paged(c.heads, std::get<1>(GetParam()), {{shared + 12, 3}}, 29);
  ops::kv_append(paged.qkv, c.heads, paged.sequences, paged.kv);
  paged.sequences[0].num_branches = 3;
  paged.sequences[0].num_branch_slots = 12;
  expect_matches(paged, c.heads, paged.sequences, cuda::ActivationType::kF32);
}

// Thousands of tiles, split over as many blocks as there may be.
TEST(CudaAttentionLongTest, OneSequenceOf32kTokens) {
  for (const KvDtype dtype : {KvDtype::kF16, KvDtype::kInt4}) {
    const HeadLayout heads{2, 1, 64};
    PagedCase paged(heads, dtype, {{32768, 1}}, 19);
    ops::kv_append(paged.qkv, heads, paged.sequences, paged.kv);
    expect_matches(paged, heads, paged.sequences, cuda::ActivationType::kF16);
  }
}

// Windows of one token, within a tile, over several tiles and longer than anything cached.
TEST_P(CudaAttentionTest, QueriesSeeTheirWindow) {
  const CudaCase& c = cases().at(static_cast<std::size_t>(std::get<0>(GetParam())));
  constexpr std::array kWindows = {33, 7, 200, 1, 5000};
  PagedCase paged(c.heads, std::get<1>(GetParam()), c.shapes, 18);
  for (PagedSequence& sequence : paged.sequences)
    sequence.cache.window.tokens = kWindows.at((case_number() + dtype_number()) % kWindows.size());
  ops::kv_append(paged.qkv, c.heads, paged.sequences, paged.kv);
  expect_matches(paged, c.heads, paged.sequences, cuda::ActivationType::kF16);
}

TEST_P(CudaAttentionTest, BranchesHaveWindowsOfTheirOwnText) {
  const CudaCase& c = cases().at(static_cast<std::size_t>(std::get<0>(GetParam())));
  const int shared = std::max(1, c.shapes[0].num_cached - c.shapes[0].num_queries);
  PagedCase paged(c.heads, std::get<1>(GetParam()), {{shared + 12, 3}}, 30);
  ops::kv_append(paged.qkv, c.heads, paged.sequences, paged.kv);
  paged.sequences[0].num_branches = 3;
  paged.sequences[0].num_branch_slots = 12;
  paged.sequences[0].cache.window.tokens = case_number() % 2 == 0 ? 2 : 9;
  expect_matches(paged, c.heads, paged.sequences, cuda::ActivationType::kF32);
}

// After pruning a head's slots have positions of their own, here in rows with room for slots that have gone.
TEST_P(CudaAttentionTest, PrunedSlotsLeaveTheWindowByPosition) {
  constexpr int kStride = 260;
  constexpr int kPlaced = 250;
  constexpr int kEvicted = 450;
  const HeadLayout& heads = cases().at(static_cast<std::size_t>(std::get<0>(GetParam()))).heads;
  std::mt19937_64 engine(44);
  std::vector<std::int32_t> positions;
  for (int h = 0; h < heads.num_kv_heads; ++h) {
    std::vector<std::int32_t> all(kPlaced + kEvicted);
    std::iota(all.begin(), all.end(), 0);
    std::sample(all.begin(), all.end(), std::back_inserter(positions), kStride, engine);
  }
  constexpr std::array kWindows = {600, 40, 300};
  const int queries = case_number() % 2 == 0 ? 1 : 40;
  PagedCase paged(heads, std::get<1>(GetParam()), {{300, queries}}, 43);
  ops::kv_append(paged.qkv, heads, paged.sequences, paged.kv);
  paged.sequences[0].cache.window = {
      .tokens = kWindows.at((case_number() + dtype_number()) % kWindows.size()),
      .num_evicted = kEvicted,
      .num_placed = kPlaced,
      .positions = positions.data() + (kStride - kPlaced),
      .positions_stride = kStride};
  expect_matches(paged, heads, paged.sequences, cuda::ActivationType::kF32);
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaAttentionTest,
                         ::testing::Combine(::testing::Range(0, static_cast<int>(cases().size())),
                                            testing::all_kv_dtypes()),
                         testing::case_name);

}  // namespace
}  // namespace kvcrush
