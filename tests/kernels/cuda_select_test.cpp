// The GPU's selection, run by the simulator, against plan_layer(): the same float32 operations in the same
// order, so the same slots stay, whatever ties there are.
#include "tests/kernels/cuda_select_fixture.h"

namespace kvcrush {
namespace {

using testing::Case;
using testing::case_of;
using testing::expect_same;
using testing::GpuSelection;
using testing::Readings;
using testing::readings_of;
using testing::set_sizes;
using testing::Values;

constexpr BasePolicy kPolicies[] = {BasePolicy::kSnapKv,    BasePolicy::kH2o,   BasePolicy::kTova,
                                    BasePolicy::kStreaming, BasePolicy::kKNorm, BasePolicy::kKeyDiff};
constexpr AnchorKind kAnchors[] = {AnchorKind::kRandom, AnchorKind::kZeros, AnchorKind::kOnes,
                                   AnchorKind::kMean, AnchorKind::kAlternating};
constexpr TokenSets kSets[] = {TokenSets::kPerLayer, TokenSets::kPerKvHead};

TEST(CudaSelect, EveryPolicyAnchorShareAndSet) {
  int mode = 0;
  for (const double share : {0.0, 0.25, 0.5, 1.0}) {
    std::vector<Case> cases;
    for (const BasePolicy policy : kPolicies) {
      for (const AnchorKind anchor : kAnchors) {
        if (share == 0.0 && anchor != AnchorKind::kMean) continue;
        for (const TokenSets sets : kSets) {
          cases.push_back(case_of(policy, anchor, share, sets, mode));
          const int group = 1 + mode % 3;
          const int num_tokens = 90 + mode * 7 % 100;
          set_sizes(3 * group, 3, num_tokens, 20 + mode * 5 % 60, cases.back());
          ++mode;
        }
      }
    }
    expect_same(cases, static_cast<unsigned>(mode));
  }
}

struct Heads {
  int num_heads;
  int num_kv_heads;
};

TEST(CudaSelect, ManyHeadsAndOne) {
  for (const Heads heads : {Heads{1, 1}, Heads{32, 8}, Heads{70, 10}, Heads{70, 70}}) {
    std::vector<Case> cases;
    for (int mode = 0; mode < 5; ++mode) {
      cases.push_back(case_of(mode < 4 ? BasePolicy::kSnapKv : BasePolicy::kKNorm, kAnchors[mode],
                              0.25 + 0.25 * (mode % 3), kSets[mode / 2 % 2], mode * 11 + heads.num_heads));
      set_sizes(heads.num_heads, heads.num_kv_heads, 150 + 60 * mode, 80, cases.back());
    }
    expect_same(cases, 100);
  }
}

// Around the ends of a warp's reads, of a tile and of what must go: one token at least.
TEST(CudaSelect, EverySizeNearABorder) {
  std::vector<Case> cases;
  for (const int num_candidates : {2, 130, 31, 127, 128, 129, 514, 511, 512, 513, 1025, 2600}) {
    for (const int num_evicted : {1, num_candidates / 2, num_candidates - 1}) {
      const auto mode = static_cast<int>(cases.size());
      Case c = case_of(kPolicies[mode % 3], kAnchors[2 * mode % 5], 0.25 * (mode % 5), kSets[mode % 2], mode);
      const int num_fixed = c.params.num_sink_tokens + c.params.window_tokens;
      set_sizes(2, 2, num_fixed + num_candidates, num_fixed + num_candidates - num_evicted, c);
      cases.push_back(c);
    }
  }
  expect_same(cases, 200);
}

// Pools reach over the borders of tiles, and at the ends of the row not beyond it.
TEST(CudaSelect, PoolsOfEveryWidth) {
  std::vector<Case> cases;
  for (int kernel = 1; kernel <= kMaxPoolKernelTokens; kernel += 2) {
    for (const PoolShape shape : {PoolShape::kMax, PoolShape::kGaussian}) {
      if (kernel == 1 && shape == PoolShape::kGaussian) continue;
      Case c = case_of(kPolicies[kernel / 2 % 3], AnchorKind::kMean, kernel % 4 == 1 ? 0.25 : 0.0,
                       TokenSets::kPerLayer, kernel);
      c.params.pool_kernel_tokens = kernel;
      c.params.pool_shape = shape;
      c.values = kernel % 3 == 0 ? Values::kSigned : Values::kLogNormal;
      set_sizes(2, 1, 1100 - kernel, 300, c);
      cases.push_back(c);
    }
  }
  expect_same(cases, 300);
}

// The longest prompts; past 262144 tokens ties are looked for in pieces of more than one read.
TEST(CudaSelect, LongRows) {
  std::vector<Case> cases;
  for (const int num_tokens : {131072, 300001}) {
    Case c = case_of(BasePolicy::kSnapKv, AnchorKind::kMean, 0.25, TokenSets::kPerLayer, 1);
    c.values = num_tokens > 262144 ? Values::kMostlyZero : Values::kLogNormal;
    set_sizes(1, 1, num_tokens, num_tokens / 4, c);
    cases.push_back(c);
  }
  expect_same(cases, 400);
}

std::vector<Case> mixed_cases() {
  std::vector<Case> cases;
  for (const Heads heads : {Heads{9, 3}, Heads{8, 1}, Heads{16, 4}, Heads{1, 1}}) {
    for (const int num_tokens : {0, 5, 64, 65, 400}) {
      const auto mode = static_cast<int>(cases.size());
      cases.push_back(
          case_of(kPolicies[mode % 6], kAnchors[mode % 5], 0.25 * (mode % 4), kSets[mode % 2], mode));
      set_sizes(heads.num_heads, heads.num_kv_heads, num_tokens, 64, cases.back());
    }
  }
  return cases;
}

TEST(CudaSelect, JobsOfOneLaunchShareNothing) {
  expect_same(mixed_cases(), 500);
}

// As a captured graph does: the grids of larger jobs, and what the launch before left in the workspace.
TEST(CudaSelect, ALaunchMayBeLargerThanItsJobs) {
  const std::vector<Case> cases = mixed_cases();
  const std::vector<Readings> readings = readings_of(cases, 600);
  GpuSelection selection(cases, readings);
  cuda::SelectLaunch larger = selection.shape();
  larger.num_sets += 2;
  larger.row_keys += 10 * cuda::kSelectRowPadding;
  larger.num_scored_heads += 3;
  larger.signature_bits += 40;
  for (int launch = 0; launch < 2; ++launch) selection.run(larger);
  selection.expect_slots(cases, readings);
}

TEST(CudaSelect, AllStayWithinTheBudget) {
  std::vector<Case> cases;
  for (const int num_tokens : {1, 50, 64}) {
    cases.push_back(case_of(BasePolicy::kSnapKv, AnchorKind::kMean, 0.25, TokenSets::kPerKvHead, num_tokens));
    set_sizes(6, 2, num_tokens, 64, cases.back());
  }
  const GpuSelection selection(cases, readings_of(cases, 700));
  EXPECT_EQ(selection.shape().row_keys, 0);
  expect_same(cases, 700);
}

TEST(CudaSelect, NoJobsAreNoLaunch) {
  cuda::select_tokens(cuda::prepare_select({}, nullptr), nullptr, nullptr);
}

TEST(CudaSelect, BlocksOfTokensStayWithTheHost) {
  CompressionParams params;
  EXPECT_TRUE(cuda::selects_on_device(params));
  params.granularity = Granularity::kBlock;
  EXPECT_FALSE(cuda::selects_on_device(params));
}

TEST(CudaSelect, OnlyRepresentativesTakeRoomForScores) {
  CompressionParams params = preset_params(Preset::kPaper, BasePolicy::kSnapKv);
  const cuda::SelectSizes sizes{.num_heads = 32, .num_kv_heads = 8, .num_tokens = 8192, .num_queries = 32};
  const auto bytes_of = [&](double share) {
    params.representative_share = share;
    const cuda::SelectJob job = cuda::make_select_job(params, 2048, 0, sizes);
    return cuda::select_workspace_bytes({&job, 1});
  };
  EXPECT_LT(bytes_of(0.0), 2U * 8192 * sizeof(float));
  EXPECT_LT(bytes_of(0.25), 34U * 8192 * sizeof(float));
  EXPECT_GT(bytes_of(0.25), 32U * 8000 * sizeof(float));
}

}  // namespace
}  // namespace kvcrush
