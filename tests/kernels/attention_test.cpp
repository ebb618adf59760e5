// Paged attention, observation scores, cache writes and compaction against their ATen references.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "engine/kernels/cpu/kv_blocks.h"
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
double tolerance(const AttentionCase& c) {
  int longest = 0;
  for (const SequenceShape& shape : c.shapes) longest = std::max(longest, shape.num_cached);
  return 5.0 / (1 << 24) * (c.heads.head_dim + 8 * std::sqrt(longest) + 32);
}

class AttentionTest : public ::testing::TestWithParam<std::tuple<int, cpu::KvElement>> {
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
  cpu::AttentionWorkspace workspace;
  ops::paged_attention(paged.qkv, c.heads, paged.sequences, paged.kv, workspace, out);
  reference::paged_attention(paged.qkv, c.heads, paged.sequences, paged.kv, expected);
  EXPECT_LT(max_difference(out, expected), tolerance(c));
}

TEST_P(AttentionTest, AppendMatchesReference) {
  const AttentionCase c = get_case(std::get<0>(GetParam()));
  PagedCase ours(c.heads, std::get<1>(GetParam()), c.shapes, 18);
  PagedCase theirs(c.heads, std::get<1>(GetParam()), c.shapes, 18);
  ops::kv_append(ours.qkv, c.heads, ours.sequences, ours.kv);
  reference::kv_append(theirs.qkv, c.heads, theirs.sequences, theirs.kv);
  // Equal to the bit, NaN of unwritten slots included.
  const auto same = [](const at::Tensor& a, const at::Tensor& b) {
    return at::equal(a.to(at::kFloat).nan_to_num(-12345.0), b.to(at::kFloat).nan_to_num(-12345.0));
  };
  EXPECT_TRUE(same(ours.kv.keys(), theirs.kv.keys()));
  EXPECT_TRUE(same(ours.kv.values(), theirs.kv.values()));
}

TEST_P(AttentionTest, RowsDoNotDependOnTheBatchOrTheThreads) {
  const AttentionCase c = get_case(std::get<0>(GetParam()));
  PagedCase paged(c.heads, std::get<1>(GetParam()), c.shapes, 19);
  ops::kv_append(paged.qkv, c.heads, paged.sequences, paged.kv);
  const std::int64_t width = c.heads.num_heads * c.heads.head_dim;
  at::Tensor together = at::empty({paged.qkv.size(0), width}, at::kFloat);
  cpu::AttentionWorkspace workspace;
  set_num_kernel_threads(1);
  ops::paged_attention(paged.qkv, c.heads, paged.sequences, paged.kv, workspace, together);
  set_num_kernel_threads(3);
  for (const PagedSequence& sequence : paged.sequences) {
    for (int i = 0; i < sequence.num_queries; ++i) {
      PagedSequence single = sequence;  // one query of one sequence, as a decode step would run it
      single.query_start = 0;
      single.num_queries = 1;
      single.num_cached = sequence.num_cached - sequence.num_queries + i + 1;
      const std::int64_t row = sequence.query_start + i;
      at::Tensor alone = at::empty({1, width}, at::kFloat);
      ops::paged_attention(paged.qkv.narrow(0, row, 1), c.heads, {&single, 1}, paged.kv, workspace, alone);
      ASSERT_EQ(0, std::memcmp(alone.data_ptr(), together[row].data_ptr(), sizeof(float) * width))
          << "row " << row;
    }
  }
  set_num_kernel_threads(1);
}

TEST_P(AttentionTest, ObservationScoresMatchReference) {
  const AttentionCase c = get_case(std::get<0>(GetParam()));
  const int num_cached = c.shapes[0].num_cached;
  const int window = std::min(num_cached, 19);
  PagedCase paged(c.heads, std::get<1>(GetParam()), {{num_cached, 0}}, 20);
  const at::Tensor queries = random_tensor({window, c.heads.num_heads * c.heads.head_dim}, 21);
  const at::Tensor expected =
      reference::observation_scores(queries, c.heads, paged.tables[0], num_cached, paged.kv);

  std::vector<const float*> rows;
  for (int i = 0; i < window; ++i) rows.push_back(queries[i].const_data_ptr<float>());
  const int group = c.heads.num_heads / c.heads.num_kv_heads;
  std::vector<float> scratch(cpu::observation_scratch_floats(num_cached));
  at::Tensor sums = at::empty({c.heads.num_heads, num_cached}, at::kFloat);
  for (int h = 0; h < c.heads.num_kv_heads; ++h) {
    cpu::cpu_kernels().observation_scores(paged.kv.cpu_pool(), paged.tables[0].data(), num_cached, h, group,
                                          rows.data(), window,
                                          1.0F / std::sqrt(static_cast<float>(c.heads.head_dim)),
                                          scratch.data(), sums[h * group].data_ptr<float>());
  }
  // Sums of up to `window` probabilities, each with the relative error of its score.
  EXPECT_LT(max_difference(sums, expected), window * tolerance(c));
  EXPECT_NEAR(sums.sum().item<float>(), static_cast<float>(c.heads.num_heads * window), 1e-2);
}

TEST_P(AttentionTest, CompactionMatchesReference) {
  const AttentionCase c = get_case(std::get<0>(GetParam()));
  const int num_cached = c.shapes[0].num_cached;
  for (const bool per_head : {false, true}) {
    PagedCase ours(c.heads, std::get<1>(GetParam()), {{num_cached, 0}}, 22);
    PagedCase theirs(c.heads, std::get<1>(GetParam()), {{num_cached, 0}}, 22);
    const int num_kept = (num_cached + 1) / 2;
    std::vector<int> kept;
    std::mt19937 engine(5);
    for (int h = 0; h < (per_head ? c.heads.num_kv_heads : 1); ++h) {
      std::vector<int> slots(num_cached);
      std::iota(slots.begin(), slots.end(), 0);
      std::shuffle(slots.begin(), slots.end(), engine);
      std::sort(slots.begin(), slots.begin() + num_kept);
      kept.insert(kept.end(), slots.begin(), slots.begin() + num_kept);
    }
    for (int h = 0; h < c.heads.num_kv_heads; ++h) {
      cpu::compact_head(ours.kv.cpu_pool(), ours.tables[0].data(), h,
                        kept.data() + (per_head ? h * num_kept : 0), num_kept);
    }
    reference::compact(kept, num_kept, theirs.tables[0], theirs.kv);
    for (int slot = 0; slot < num_kept; ++slot) {
      const BlockId block = ours.tables[0][slot / cpu::kBlockTokens];
      const int offset = slot % cpu::kBlockTokens;
      ASSERT_TRUE(
          at::equal(ours.kv.keys()[block].select(2, offset), theirs.kv.keys()[block].select(2, offset)));
      ASSERT_TRUE(
          at::equal(ours.kv.values()[block].select(1, offset), theirs.kv.values()[block].select(1, offset)));
    }
  }
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<int, cpu::KvElement>>& info) {
  const char* names[] = {"F32", "BF16", "F16"};
  return "Case" + std::to_string(std::get<0>(info.param)) + names[static_cast<int>(std::get<1>(info.param))];
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest,
                         ::testing::Combine(::testing::Range(0, 8),
                                            ::testing::Values(cpu::KvElement::kF32, cpu::KvElement::kBF16,
                                                              cpu::KvElement::kF16)),
                         case_name);

}  // namespace
}  // namespace kvcrush
