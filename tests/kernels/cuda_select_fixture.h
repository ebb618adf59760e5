// Selections to compare: parameters and sizes, random readings, and a run of the GPU's kernels over them in
// the simulator.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/cuda/select.h"
#include "engine/kvcrush/prune_plan.h"

namespace kvcrush::testing {

enum class Values { kLogNormal, kFewLevels, kMostlyZero, kEqual, kSigned };
inline constexpr int kNumValueKinds = 4;  // that any policy may read

struct Case {
  CompressionParams params;  // with budget_tokens
  int num_heads = 1;
  int num_kv_heads = 1;
  int num_tokens = 1;
  int num_queries = 1;
  int layer = 0;
  cpu::SlidingWindow sliding_window = {};    // positions: below
  std::vector<std::int32_t> positions = {};  // [num_kv_heads, num_placed]
  Values values = Values::kLogNormal;

  std::string name() const {
    const CompressionParams& p = params;
    return "heads " + std::to_string(num_heads) + "/" + std::to_string(num_kv_heads) + ", tokens " +
           std::to_string(num_tokens) + " to " + std::to_string(*p.budget_tokens) + ", policy " +
           std::to_string(static_cast<int>(p.policy)) + ", anchor " +
           std::to_string(static_cast<int>(p.anchor)) + ", share " + std::to_string(p.representative_share) +
           ", sets " + std::to_string(static_cast<int>(p.token_sets)) + ", pick " +
           std::to_string(static_cast<int>(p.pick)) + ", signatures " +
           std::to_string(static_cast<int>(p.signature_heads)) + ", pool " +
           std::to_string(p.pool_kernel_tokens) + (p.pool_shape == PoolShape::kMax ? " max" : " gaussian") +
           ", values " + std::to_string(static_cast<int>(values));
  }
};

inline cpu::SlidingWindow window_of(const Case& c) {
  cpu::SlidingWindow window = c.sliding_window;
  window.positions = c.positions.data();
  window.positions_stride = window.num_placed;
  return window;
}

// As unseen_slots().
inline std::vector<int> unseen_of(const Case& c) {
  std::vector<int> unseen;
  cpu::CachedLayer cache;
  cache.window = window_of(c);
  for (int h = 0; h < c.num_kv_heads && cache.window.tokens > 0; ++h)
    unseen.push_back(cpu::first_in_window(cache, h, c.num_tokens));
  return unseen;
}

inline std::vector<float> random_values(Values kind, int rows, int columns, std::mt19937& generator) {
  std::vector<float> values(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns));
  std::normal_distribution<float> normal(-8.0F, 3.0F);
  for (float& value : values) {
    switch (kind) {
      case Values::kLogNormal:
        value = std::exp(normal(generator));
        break;
      case Values::kFewLevels:
        value = static_cast<float>(generator() % 4) / 3.0F;
        break;
      case Values::kMostlyZero:
        value = generator() % 8 == 0 ? 0.5F : 0.0F;
        break;
      case Values::kEqual:
        value = 0.125F;
        break;
      case Values::kSigned:
        value = normal(generator);
        break;
    }
  }
  return values;
}

struct Readings {
  std::vector<float> probability_sums;
  std::vector<float> key_scores;
  std::vector<float> value_norms;      // per KV head
  std::vector<float> all_value_norms;  // per query head

  Readings(const Case& c, unsigned seed) {
    std::mt19937 generator(seed);
    probability_sums = random_values(c.values, c.num_heads, c.num_tokens, generator);
    key_scores = random_values(c.values, c.num_kv_heads, c.num_tokens, generator);
    for (float& score : key_scores) score = generator() % 2 == 0 ? score : -score;  // both zeros among them
    value_norms = random_values(c.values, c.num_kv_heads, c.num_tokens, generator);
    for (int head = 0; head < c.num_heads; ++head) {
      const auto first = value_norms.begin() +
                         static_cast<std::ptrdiff_t>(head / (c.num_heads / c.num_kv_heads)) * c.num_tokens;
      all_value_norms.insert(all_value_norms.end(), first, first + c.num_tokens);
    }
  }
};

inline LayerPrunePlan planned_on_cpu(const Case& c, const Readings& readings) {
  PruneScratch scratch;
  LayerPrunePlan plan;
  const std::vector<int> unseen = unseen_of(c);
  plan_layer(c.params, *c.params.budget_tokens, c.layer,
             {.num_heads = c.num_heads,
              .num_kv_heads = c.num_kv_heads,
              .num_tokens = c.num_tokens,
              .probability_sums = readings.probability_sums,
              .num_queries = c.num_queries,
              .key_scores = readings.key_scores,
              .value_norms = readings.all_value_norms,
              .num_unseen = unseen},
             scratch, plan);
  return plan;
}

// Jobs with a workspace and outputs of exactly their size, between guards.
class GpuSelection {
 public:
  GpuSelection(const std::vector<Case>& cases, const std::vector<Readings>& readings) {
    for (std::size_t i = 0; i < cases.size(); ++i) {
      const Case& c = cases[i];
      cuda::SelectJob job =
          cuda::make_select_job(c.params, *c.params.budget_tokens, c.layer,
                                {c.num_heads, c.num_kv_heads, c.num_tokens, c.num_queries, window_of(c)});
      EXPECT_EQ(job.num_kept, num_kept_tokens(c.params, *c.params.budget_tokens, c.num_tokens));
      // What the policy does not read is not there.
      const bool reads = reads_attention(c.params.policy);
      if (reads) job.probability_sums = readings[i].probability_sums.data();
      if (!reads && c.params.policy != BasePolicy::kStreaming) job.key_scores = readings[i].key_scores.data();
      if (c.params.value_norm) job.value_norms = readings[i].value_norms.data();
      kept_.emplace_back(static_cast<std::size_t>(job.num_sets * job.num_kept) + kGuard, kUnwritten);
      job.kept_slots = kept_.back().data();
      jobs_.push_back(job);
    }
    bytes_ = cuda::select_workspace_bytes(jobs_);
    workspace_.assign(bytes_ + 2 * kGuard, kGarbage);
    const std::size_t past = reinterpret_cast<std::uintptr_t>(workspace_.data()) % kGuard;
    base_ = workspace_.data() + (kGuard - past);
    shape_ = cuda::prepare_select(jobs_, base_);
  }

  const cuda::SelectLaunch& shape() const { return shape_; }
  void run(const cuda::SelectLaunch& shape) { cuda::select_tokens(shape, jobs_.data(), nullptr); }

  void expect_slots(const std::vector<Case>& cases, const std::vector<Readings>& readings) const {
    for (std::size_t i = 0; i < cases.size(); ++i) {
      std::vector<int> expected = planned_on_cpu(cases[i], readings[i]).kept_slots;
      expected.resize(expected.size() + kGuard, kUnwritten);
      ASSERT_EQ(kept_[i], expected) << cases[i].name();
    }
    const bool clean = std::all_of(base_ + bytes_, base_ + bytes_ + kGuard - 1,
                                   [](std::byte one) { return one == kGarbage; });
    EXPECT_TRUE(clean) << "written past the workspace";
  }

 private:
  static constexpr std::size_t kGuard = 256;
  static constexpr int kUnwritten = -7;
  static constexpr std::byte kGarbage{0xa5};

  std::vector<std::vector<int>> kept_;
  std::vector<cuda::SelectJob> jobs_;
  std::vector<std::byte> workspace_;
  std::size_t bytes_ = 0;
  std::byte* base_ = nullptr;
  cuda::SelectLaunch shape_;
};

inline std::vector<Readings> readings_of(const std::vector<Case>& cases, unsigned seed) {
  std::vector<Readings> readings;
  for (const Case& c : cases) readings.emplace_back(c, seed++);
  return readings;
}

inline void expect_same(const std::vector<Case>& cases, unsigned seed) {
  const std::vector<Readings> readings = readings_of(cases, seed);
  GpuSelection selection(cases, readings);
  selection.run(selection.shape());
  selection.expect_slots(cases, readings);
}

// `mode` runs through everything that is not looped over.
inline Case case_of(BasePolicy policy, AnchorKind anchor, double share, TokenSets sets, int mode) {
  Case c;
  CompressionParams& p = c.params;
  p.policy = policy;
  p.anchor = anchor;
  p.representative_share = share;
  p.token_sets = sets;
  p.num_sink_tokens = mode % 3 * 2;
  p.window_tokens = 1 + mode % 8;
  p.observed_queries = p.window_tokens;
  p.pick = mode % 2 == 0 ? RepresentativePick::kFirst : RepresentativePick::kBest;
  p.signature_heads = mode % 5 < 3 ? SignatureHeads::kQuery : SignatureHeads::kKv;
  p.seed = static_cast<std::uint64_t>(mode) * 0x123456789abcdefU;
  p.pool_kernel_tokens = 1;
  if (reads_attention(policy)) {
    p.pool_kernel_tokens = 1 + 2 * (mode % 7);
    p.pool_shape = mode % 4 < 2 || p.pool_kernel_tokens == 1 ? PoolShape::kMax : PoolShape::kGaussian;
    p.value_norm = mode % 3 == 1;
  }
  if (sets == TokenSets::kPerKvHead && mode % 3 != 0) p.layer_weight = mode % 3 == 1 ? 1.0 : 0.3;
  c.num_queries = 1 + mode % 5;
  c.layer = mode % 30;
  c.values = static_cast<Values>(mode % kNumValueKinds);
  return c;
}

inline void set_sizes(int num_heads, int num_kv_heads, int num_tokens, int budget_tokens, Case& c) {
  c.num_heads = num_heads;
  c.num_kv_heads = num_kv_heads;
  c.num_tokens = num_tokens;
  c.params.budget_tokens = budget_tokens;
  const Status status = validate(c.params);
  ASSERT_TRUE(status.ok()) << status.message();
}

}  // namespace kvcrush::testing
