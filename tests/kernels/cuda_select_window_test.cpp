// The GPU's selection in layers with a sliding window, run by the simulator, against plan_layer(): what no
// later query sees goes first.
#include "tests/kernels/cuda_select_fixture.h"
#include "tests/kernels/window_cases.h"

namespace kvcrush {
namespace {

using testing::Case;
using testing::case_of;
using testing::expect_same;
using testing::GpuSelection;
using testing::planned_on_cpu;
using testing::random_positions;
using testing::Readings;
using testing::readings_of;
using testing::set_sizes;
using testing::unseen_of;
using testing::Values;

constexpr BasePolicy kPolicies[] = {BasePolicy::kSnapKv,    BasePolicy::kH2o,   BasePolicy::kTova,
                                    BasePolicy::kStreaming, BasePolicy::kKNorm, BasePolicy::kKeyDiff};
constexpr AnchorKind kAnchors[] = {AnchorKind::kMean, AnchorKind::kRandom, AnchorKind::kAlternating};
constexpr TokenSets kSets[] = {TokenSets::kPerLayer, TokenSets::kPerKvHead};

// num_placed 0: slots are neighbours.
void set_window(int tokens, int num_placed, Case& c) {
  const int num_evicted = num_placed == 0 ? 40 : c.num_tokens / 2;
  c.sliding_window = {
      .tokens = tokens, .dropped_tiles = 0, .num_evicted = num_evicted, .num_placed = num_placed};
  c.positions = random_positions(c.num_kv_heads, num_placed, num_evicted, static_cast<unsigned>(tokens) + 1);
}

// Windows that nothing, most and all of the candidates have left, and none.
TEST(CudaSelectWindow, EveryPolicyShareAndSet) {
  for (const bool is_placed : {false, true}) {
    for (const double share : {0.0, 0.25, 1.0}) {
      std::vector<Case> cases;
      for (const BasePolicy policy : kPolicies) {
        for (const TokenSets sets : kSets) {
          for (const int percent : {0, 1, 40, 75, 300}) {
            const auto mode = static_cast<int>(cases.size());
            Case c = case_of(policy, kAnchors[mode % 3], share, sets, mode);
            const int num_tokens = 100 + mode * 7 % 100;
            set_sizes(3 * (1 + mode % 3), 3, num_tokens, 20 + mode * 5 % 60, c);
            set_window(percent * num_tokens / 100, is_placed ? num_tokens - 10 : 0, c);
            cases.push_back(c);
          }
        }
      }
      expect_same(cases, 800);
    }
  }
}

// What the test above is about: the window takes part in the choice, by KV head.
TEST(CudaSelectWindow, HeadsLoseDifferentSlots) {
  Case c = case_of(BasePolicy::kSnapKv, AnchorKind::kMean, 0.0, TokenSets::kPerKvHead, 4);
  c.params.num_sink_tokens = 0;
  set_sizes(6, 3, 300, 100, c);
  set_window(150, 280, c);
  const std::vector<int> unseen = unseen_of(c);
  ASSERT_NE(unseen[0], unseen[1]);
  ASSERT_NE(unseen[1], unseen[2]);
  expect_same({c}, 810);
  Case without = c;
  without.sliding_window = {};
  const Readings readings(c, 810);
  EXPECT_NE(planned_on_cpu(c, readings).kept_slots, planned_on_cpu(without, readings).kept_slots);
}

// The lowest score lies in any tile of a row; pools reach over what is seen and what is not.
TEST(CudaSelectWindow, RowsOfManyTilesAndEveryPool) {
  std::vector<Case> cases;
  for (const int kernel : {1, 3, 7, 31, kMaxPoolKernelTokens}) {
    for (const PoolShape shape : {PoolShape::kMax, PoolShape::kGaussian}) {
      for (const TokenSets sets : kSets) {
        if (kernel == 1 && shape == PoolShape::kGaussian) continue;
        const auto mode = static_cast<int>(cases.size());
        Case c = case_of(kPolicies[mode % 3], kAnchors[mode % 3], mode % 3 * 0.25, sets, mode);
        c.params.pool_kernel_tokens = kernel;
        c.params.pool_shape = shape;
        c.values = mode % 4 == 0 ? Values::kSigned : static_cast<Values>(mode % 3);
        set_sizes(4, 2, 2100 - 40 * mode, 1000 - 40 * mode, c);
        set_window(700 + 100 * (mode % 3), mode % 2 == 0 ? 0 : 1000, c);
        cases.push_back(c);
      }
    }
  }
  expect_same(cases, 820);
}

// As a captured graph does, with layers that have no window between those that do.
TEST(CudaSelectWindow, ALaunchMayBeLargerThanItsJobs) {
  std::vector<Case> cases;
  for (int mode = 0; mode < 12; ++mode) {
    cases.push_back(
        case_of(kPolicies[mode % 6], kAnchors[mode % 3], mode % 4 * 0.25, kSets[mode / 2 % 2], mode));
    set_sizes(4 + mode % 3 * 2, 2, mode == 5 ? 60 : 200 + mode, 70, cases.back());
    if (mode % 3 != 1) set_window(90 + mode, mode % 2 * 150, cases.back());
  }
  cases[5].positions.clear();  // all of its tokens stay: nothing is read
  const std::vector<Readings> readings = readings_of(cases, 830);
  GpuSelection selection(cases, readings);
  cuda::SelectLaunch larger = selection.shape();
  EXPECT_EQ(larger.num_windowed_heads, 8);
  larger.num_sets += 2;
  larger.row_keys += 10 * cuda::kSelectRowPadding;
  larger.num_windowed_heads += 3;
  for (int launch = 0; launch < 2; ++launch) selection.run(larger);
  selection.expect_slots(cases, readings);
}

TEST(CudaSelectWindow, WithoutWindowsNothingIsLaunchedForThem) {
  std::vector<Case> cases(1, case_of(BasePolicy::kKNorm, AnchorKind::kMean, 0.25, TokenSets::kPerLayer, 0));
  set_sizes(4, 2, 200, 70, cases[0]);
  EXPECT_EQ(GpuSelection(cases, readings_of(cases, 840)).shape().num_windowed_heads, 0);
}

}  // namespace
}  // namespace kvcrush
