// Paged attention and what pruning observes, against their ATen references.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "engine/kernels/parallel.h"
#include "tests/kernels/kernel_fixture.h"

namespace kvcrush {
namespace {

using testing::max_difference;
using testing::PagedCase;
using testing::random_tensor;
using testing::SequenceShape;

struct AttentionCase {
  HeadLayout heads;
  std::vector<SequenceShape> shapes;
};

// Outputs are averages of V: errors are a few units of the largest |V| (about 5), more with the length of the
// softmax sum and the error of scores, |q.k| sqrt(D) units each.
//
// In bfloat16 (2^-9) K, V, queries and probabilities are rounded: probabilities are off by as many units as
// scores are (up to 5 here), and so is V.
double tolerance(const AttentionCase& c, bool in_bf16 = false) {
  if (in_bf16) return 5.0 * 6 / (1 << 9);
  int longest = 0;
  for (const SequenceShape& shape : c.shapes) longest = std::max(longest, shape.num_cached);
  return 5.0 / (1 << 24) * (c.heads.head_dim + 8 * std::sqrt(longest) + 32);
}

// Of every case: what this machine computes it in.
std::vector<bool> roundings(const AttentionCase& c) {
  if (cpu::cpu_kernels().attention_bf16 == nullptr || c.heads.head_dim % 32 != 0) return {false};
  return {false, true};
}

class AttentionTest : public ::testing::TestWithParam<std::tuple<int, KvDtype>> {
 protected:
  static AttentionCase get_case(int index) {
    const HeadLayout smollm{9, 3, 64};
    const HeadLayout one_group{4, 4, 32};
    const HeadLayout wide{16, 1, 128};
    const HeadLayout widest{2, 1, 256};
    const HeadLayout narrow{6, 2, 16};
    const std::vector<AttentionCase> cases = {
        {smollm, {{1, 1}}},
        {smollm, {{16, 1}, {17, 1}, {15, 15}}},
        {smollm, {{513, 1}, {1200, 1}, {31, 31}}},
        {smollm, {{600, 37}, {1, 1}, {48, 16}}},
        {one_group, {{100, 100}, {33, 2}}},
        {wide, {{70, 9}, {520, 1}}},
        {widest, {{40, 8}, {512, 1}}},
        {narrow, {{1040, 17}}},
    };
    return cases.at(index);
  }
};

TEST_P(AttentionTest, MatchesReference) {
  const AttentionCase c = get_case(std::get<0>(GetParam()));
  PagedCase paged(c.heads, std::get<1>(GetParam()), c.shapes, 17);
  ops::kv_append(paged.qkv, c.heads, paged.sequences, paged.kv);
  at::Tensor out = at::empty({paged.qkv.size(0), c.heads.num_heads * c.heads.head_dim}, at::kFloat);
  at::Tensor expected = at::empty_like(out);
  at::Tensor stats = at::empty({paged.qkv.size(0), c.heads.num_heads, 2}, at::kFloat);
  at::Tensor expected_stats = at::empty_like(stats);
  reference::paged_attention(paged.qkv, c.heads, paged.sequences, paged.kv, expected, expected_stats);
  for (const bool in_bf16 : roundings(c)) {
    cpu::AttentionWorkspace workspace;
    workspace.in_bf16 = in_bf16;
    ops::paged_attention(paged.qkv, c.heads, paged.sequences, paged.kv, workspace, out, stats);
    EXPECT_LT(max_difference(out, expected), tolerance(c, in_bf16)) << "bf16: " << in_bf16;
    EXPECT_LT(max_difference(stats, expected_stats), tolerance(c, in_bf16)) << "bf16: " << in_bf16;
  }
}

TEST_P(AttentionTest, AppendMatchesReference) {
  const AttentionCase c = get_case(std::get<0>(GetParam()));
  PagedCase ours(c.heads, std::get<1>(GetParam()), c.shapes, 18);
  PagedCase theirs(c.heads, std::get<1>(GetParam()), c.shapes, 18);
  ops::kv_append(ours.qkv, c.heads, ours.sequences, ours.kv);
  reference::kv_append(theirs.qkv, c.heads, theirs.sequences, theirs.kv);
  EXPECT_TRUE(at::equal(ours.kv.bytes(), theirs.kv.bytes()));
}

TEST_P(AttentionTest, RowsDoNotDependOnTheBatchOrTheThreads) {
  const AttentionCase c = get_case(std::get<0>(GetParam()));
  for (const bool in_bf16 : roundings(c)) {
    PagedCase paged(c.heads, std::get<1>(GetParam()), c.shapes, 19);
    ops::kv_append(paged.qkv, c.heads, paged.sequences, paged.kv);
    const std::int64_t width = c.heads.num_heads * c.heads.head_dim;
    at::Tensor together = at::empty({paged.qkv.size(0), width}, at::kFloat);
    cpu::AttentionWorkspace workspace;
    workspace.in_bf16 = in_bf16;
    at::Tensor stats = at::empty({paged.qkv.size(0), c.heads.num_heads, 2}, at::kFloat);
    set_num_kernel_threads(1);
    ops::paged_attention(paged.qkv, c.heads, paged.sequences, paged.kv, workspace, together, stats);
    set_num_kernel_threads(3);
    for (const PagedSequence& sequence : paged.sequences) {
      for (int i = 0; i < sequence.num_queries; ++i) {
        PagedSequence single = sequence;  // one query of one sequence, as a decode step would run it
        single.query_start = 0;
        single.num_queries = 1;
        single.cache.num_cached = sequence.cache.num_cached - sequence.num_queries + i + 1;
        const std::int64_t row = sequence.query_start + i;
        at::Tensor alone = at::empty({1, width}, at::kFloat);
        at::Tensor alone_stats = at::empty({1, c.heads.num_heads, 2}, at::kFloat);
        ops::paged_attention(paged.qkv.narrow(0, row, 1), c.heads, {&single, 1}, paged.kv, workspace, alone,
                             alone_stats);
        ASSERT_EQ(0, std::memcmp(alone.data_ptr(), together[row].data_ptr(), sizeof(float) * width))
            << "row " << row << ", bf16: " << in_bf16;
        ASSERT_TRUE(at::equal(alone_stats[0], stats[row])) << "row " << row << ", bf16: " << in_bf16;
      }
    }
    set_num_kernel_threads(1);
  }
}

// Branches that take turns in the newest slots come to what each comes to alone.
TEST_P(AttentionTest, BranchesSeeTheirOwnSlotsOnly) {
  const AttentionCase c = get_case(std::get<0>(GetParam()));
  const int shared = std::max(1, c.shapes[0].num_cached - c.shapes[0].num_queries);
  constexpr int kBranches = 3;
  constexpr int kSteps = 7;
  constexpr int kSlots = kBranches * kSteps;
  for (const bool in_bf16 : roundings(c)) {
    PagedCase paged(c.heads, std::get<1>(GetParam()), {{shared + kSlots, kSlots}}, 29);
    PagedSequence& together = paged.sequences[0];
    ops::kv_append(paged.qkv, c.heads, paged.sequences, paged.kv);
    together.num_branches = kBranches;
    together.num_branch_slots = kSlots;
    const std::int64_t width = c.heads.num_heads * c.heads.head_dim;
    const auto attend = [&](const at::Tensor& qkv, const PagedSequence& sequence, bool by_reference) {
      at::Tensor out = at::empty({qkv.size(0), width}, at::kFloat);
      at::Tensor stats = at::empty({qkv.size(0), c.heads.num_heads, 2}, at::kFloat);
      cpu::AttentionWorkspace workspace;
      workspace.in_bf16 = in_bf16;
      if (by_reference) {
        reference::paged_attention(qkv, c.heads, {&sequence, 1}, paged.kv, out, stats);
      } else {
        ops::paged_attention(qkv, c.heads, {&sequence, 1}, paged.kv, workspace, out, stats);
      }
      return std::make_pair(out, stats);
    };
    const auto [out, stats] = attend(paged.qkv, together, false);
    const auto [expected, expected_stats] = attend(paged.qkv, together, true);
    EXPECT_LT(max_difference(out, expected), tolerance(c, in_bf16));
    EXPECT_LT(max_difference(stats, expected_stats), tolerance(c, in_bf16));
    for (int b = 0; b < kBranches; ++b) {
      // The branch's tokens, written over the others' slots.
      const at::Tensor own = paged.qkv.slice(0, b, kSlots, kBranches).contiguous();
      PagedSequence alone = together;
      alone.num_queries = kSteps;
      alone.cache.num_cached = shared + kSteps;
      alone.num_branches = 1;
      alone.num_branch_slots = 0;
      ops::kv_append(own, c.heads, {&alone, 1}, paged.kv);
      const auto [single, single_stats] = attend(own, alone, false);
      EXPECT_LT(max_difference(out.slice(0, b, kSlots, kBranches), single), tolerance(c, in_bf16))
          << "branch " << b;
      EXPECT_LT(max_difference(stats.slice(0, b, kSlots, kBranches), single_stats), tolerance(c, in_bf16));
    }
  }
}

// Rows of a tensor [n, ...] as pointers.
std::vector<const float*> row_pointers(const at::Tensor& rows, std::int64_t first = 0) {
  std::vector<const float*> pointers;
  for (std::int64_t i = first; i < rows.size(0); ++i) pointers.push_back(rows[i].const_data_ptr<float>());
  return pointers;
}

TEST_P(AttentionTest, ProbabilitySumsMatchReference) {
  const AttentionCase c = get_case(std::get<0>(GetParam()));
  const int num_cached = c.shapes[0].num_cached;
  const int window = std::min(num_cached, 45);
  PagedCase paged(c.heads, std::get<1>(GetParam()), {{num_cached, window}}, 20);
  ops::kv_append(paged.qkv, c.heads, paged.sequences, paged.kv);
  at::Tensor out = at::empty({window, c.heads.num_heads * c.heads.head_dim}, at::kFloat);
  at::Tensor stats = at::empty({window, c.heads.num_heads, 2}, at::kFloat);
  cpu::AttentionWorkspace workspace;
  ops::paged_attention(paged.qkv, c.heads, paged.sequences, paged.kv, workspace, out, stats);
  const cpu::CachedLayer& cache = paged.sequences[0].cache;
  const at::Tensor queries = paged.qkv.narrow(1, 0, c.heads.num_heads * c.heads.head_dim).contiguous();
  const at::Tensor expected = reference::probability_sums(queries, c.heads, cache, paged.kv);

  const int group = c.heads.num_heads / c.heads.num_kv_heads;
  std::vector<float> scratch(cpu::probability_scratch_floats());
  const auto sum_over = [&](int first, int last, at::Tensor& sums) {
    cpu::CachedLayer seen = cache;  // as it was when query last - 1 was the newest
    seen.num_cached = num_cached - window + last;
    for (int h = 0; h < c.heads.num_kv_heads; ++h) {
      at::Tensor part = at::zeros({group, seen.num_cached}, at::kFloat);
      part.copy_(sums.narrow(0, h * group, group).narrow(1, 0, seen.num_cached));
      cpu::cpu_kernels().probability_sums(paged.kv.cpu_pool(), seen, h, group,
                                          row_pointers(queries, first).data(),
                                          row_pointers(stats, first).data(), last - first, /*num_after=*/0,
                                          1.0F / std::sqrt(static_cast<float>(c.heads.head_dim)),
                                          scratch.data(), part.data_ptr<float>(), seen.num_cached);
      sums.narrow(0, h * group, group).narrow(1, 0, seen.num_cached).copy_(part);
    }
  };
  at::Tensor sums = at::zeros({c.heads.num_heads, num_cached}, at::kFloat);
  sum_over(0, window, sums);
  // Sums of up to `window` probabilities, each with the relative error of its score.
  EXPECT_LT(max_difference(sums, expected), window * tolerance(c));
  EXPECT_NEAR(sums.sum().item<float>(), static_cast<float>(c.heads.num_heads * window), 1e-2);
  at::Tensor in_parts = at::zeros_like(sums);  // as H2O accumulates it, chunk by chunk
  sum_over(0, window / 3, in_parts);
  sum_over(window / 3, window, in_parts);
  EXPECT_TRUE(at::equal(in_parts, sums));

  // The newest tokens taken out of the cache again: their queries' probabilities of the others stay.
  const int num_after = std::min({5, window - 1, num_cached - cache.num_packed - 1});
  if (num_after <= 0) return;
  cpu::CachedLayer before = cache;
  before.num_cached = num_cached - num_after;
  const at::Tensor earlier = expected.narrow(1, 0, before.num_cached);
  at::Tensor kept = at::zeros({c.heads.num_heads, before.num_cached}, at::kFloat);
  for (int h = 0; h < c.heads.num_kv_heads; ++h) {
    cpu::cpu_kernels().probability_sums(paged.kv.cpu_pool(), before, h, group, row_pointers(queries).data(),
                                        row_pointers(stats).data(), window, num_after,
                                        1.0F / std::sqrt(static_cast<float>(c.heads.head_dim)),
                                        scratch.data(), kept[h * group].data_ptr<float>(), before.num_cached);
  }
  EXPECT_TRUE(at::equal(kept, sums.narrow(1, 0, before.num_cached)));
  const at::Tensor reference_kept =
      reference::probability_sums_after(queries, stats.flatten(1), num_after, c.heads, before, paged.kv);
  EXPECT_LT(max_difference(reference_kept, earlier), window * tolerance(c));
}

TEST_P(AttentionTest, KeyAndValueStatisticsMatchReference) {
  const AttentionCase c = get_case(std::get<0>(GetParam()));
  PagedCase paged(c.heads, std::get<1>(GetParam()), {{c.shapes[0].num_cached, 0}}, 23);
  const cpu::CachedLayer& cache = paged.sequences[0].cache;
  std::vector<float> scratch(cpu::probability_scratch_floats());
  for (const bool against_mean : {false, true}) {
    const at::Tensor expected = reference::key_scores(cache, against_mean, paged.kv);
    at::Tensor scores = at::empty_like(expected);
    for (int h = 0; h < c.heads.num_kv_heads; ++h) {
      cpu::cpu_kernels().key_scores(paged.kv.cpu_pool(), cache, h, against_mean, scratch.data(),
                                    scores[h].data_ptr<float>());
    }
    EXPECT_LT(max_difference(scores, expected),
              20 * tolerance(c));  // norms reach 20, cosines sum over all slots
  }
  const at::Tensor expected = reference::value_norms(cache, paged.kv);
  at::Tensor norms = at::empty_like(expected);
  for (int h = 0; h < c.heads.num_kv_heads; ++h)
    cpu::cpu_kernels().value_norms(paged.kv.cpu_pool(), cache, h, scratch.data(), norms[h].data_ptr<float>());
  EXPECT_LT(max_difference(norms, expected), 1e-6 * c.heads.head_dim);
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest,
                         ::testing::Combine(::testing::Range(0, 8), testing::all_kv_dtypes()),
                         testing::case_name);

}  // namespace
}  // namespace kvcrush
