#include "engine/scheduler/cache_schedule.h"

#include <gtest/gtest.h>

#include "engine/kvcrush/prune_plan.h"

namespace kvcrush {
namespace {

constexpr int kLayers = 4;
constexpr cpu::KvFormat kFloat{.tail = KvDtype::kF32, .packed = KvDtype::kF32, .tail_tokens_per_block = 16};
constexpr cpu::KvFormat kInt4{.tail = KvDtype::kF16,
                              .packed = KvDtype::kInt4,
                              .tail_tokens_per_block = 32,
                              .packed_tokens_per_block = 112};
constexpr cpu::KvFormat kInt8{.tail = KvDtype::kF16,
                              .packed = KvDtype::kInt8,
                              .tail_tokens_per_block = 32,
                              .packed_tokens_per_block = 56};

CachePolicy snapkv(int budget_tokens) {
  CachePolicy policy;
  policy.compression = preset_params(Preset::kPaper, BasePolicy::kSnapKv);
  policy.compression->budget_tokens = budget_tokens;
  return policy;
}

// A sequence's life: grows as far as the schedule lets it, settles where it says, up to `num_tokens`. Checks
// what must hold at every step and returns where it settled.
std::vector<int> live(const CacheSchedule& schedule, const cpu::KvFormat& format, int num_tokens) {
  BlockPool pool(100000);
  SequenceCache cache(pool, kLayers, format);
  std::vector<int> settled_at;
  int computed = 0;
  const int peak = schedule.peak_blocks(num_tokens, /*forked=*/false);
  while (computed < num_tokens) {
    const int tokens = std::min(num_tokens - computed, schedule.tokens_to_boundary(computed, cache));
    EXPECT_GE(tokens, 1);
    EXPECT_TRUE(cache.try_extend(tokens));
    computed += tokens;
    EXPECT_LE(cache.num_blocks(), peak) << "after " << computed;
    const Settling due = schedule.due(computed, cache);
    if (!due) continue;
    settled_at.push_back(computed);
    for (int layer = 0; layer < kLayers; ++layer) {
      const BlockTable& table = cache.layer(layer);
      const SequenceCache::LayerShape shape =
          schedule.settled_shape(layer, due, table.num_packed_tokens(), table.num_tail_tokens());
      cpu::CachedLayer to = table.cached();
      to.num_packed = shape.num_packed;
      to.num_cached = shape.num_packed + shape.num_tail;
      const int more_packed = cpu::num_packed_blocks(to) - cpu::num_packed_blocks(table.cached());
      EXPECT_GE(table.num_tail_tokens() - shape.num_tail, more_packed * format.tail_tokens_per_block)
          << "packing in place would overwrite what it has not read";
      EXPECT_GE(shape.num_tail, std::min(to.num_cached, schedule.window_tokens()));
      cache.shrink(layer, shape.num_packed, shape.num_tail);
    }
  }
  return settled_at;
}

TEST(CacheScheduleTest, FullCacheInFloatsNeverSettles) {
  const CacheSchedule schedule({}, kFloat, 500, kLayers);
  EXPECT_TRUE(live(schedule, kFloat, 900).empty());
  EXPECT_EQ(schedule.peak_blocks(900, false), kLayers * 57);
}

TEST(CacheScheduleTest, PrunesAtThePromptsEndAndByHysteresis) {
  const CacheSchedule schedule(snapkv(100), kFloat, 500, kLayers);
  EXPECT_EQ(schedule.hysteresis_tokens(), 32);
  EXPECT_EQ(live(schedule, kFloat, 600), (std::vector<int>{500, 532, 564, 596}));
  const CacheSchedule large(snapkv(2048), kFloat, 8000, kLayers);
  EXPECT_EQ(large.hysteresis_tokens(), 64);  // a 32nd of the budget
}

TEST(CacheScheduleTest, PacksWithoutPruning) {
  const CacheSchedule schedule({.compression = std::nullopt, .kv_dtype = KvDtype::kInt4}, kInt4, 500,
                               kLayers);
  const std::vector<int> settled = live(schedule, kInt4, 600);
  ASSERT_EQ(settled.size(), 4U);
  EXPECT_EQ(settled.front(), 500);
  EXPECT_EQ(settled[1], 532);
}

TEST(CacheScheduleTest, EveryLifeStaysWithinItsPeakAndPacksInPlace) {
  for (const cpu::KvFormat& format : {kFloat, kInt4, kInt8}) {
    for (const PruneWhen when : {PruneWhen::kAfterPrompt, PruneWhen::kDuringPrefill}) {
      for (const LayerBudgets budgets :
           {LayerBudgets::kUniform, LayerBudgets::kPyramid, LayerBudgets::kRising}) {
        for (const int prompt : {1, 31, 64, 65, 130, 700, 2111}) {
          for (const int budget : {40, 97, 333}) {
            CachePolicy policy = snapkv(budget);
            policy.compression->when = when;
            policy.compression->layer_budgets = budgets;
            const CacheSchedule schedule(policy, format, prompt, kLayers);
            live(schedule, format, prompt + 300);
          }
        }
      }
    }
  }
}

TEST(CacheScheduleTest, TargetIsMetInBlocksAtThePromptsEnd) {
  for (const int prompt : {1000, 3000, 8000}) {
    for (const int target : {4, 8, 16}) {
      const CachePolicy policy = policy_for_target(target).value();
      const CacheSchedule schedule(policy, kInt4, prompt, kLayers);
      int blocks = 0;
      for (int layer = 0; layer < kLayers; ++layer) {
        const auto shape = schedule.settled_shape(layer, {.prune = true, .pack = true}, 0, prompt);
        blocks += blocks_for(kInt4, shape.num_packed, shape.num_tail);
      }
      const double allowed = static_cast<double>(kLayers) * prompt / 32 / target;
      const int least = 2 * kLayers;  // the window, and one packed block
      EXPECT_LE(blocks, std::max<double>(allowed, least)) << prompt << " " << target;
      EXPECT_GT(blocks, allowed - 2 * kLayers) << "and no more is given away than rounding takes";
    }
  }
  // Out of reach: the least number of blocks, and every slot of them.
  const CacheSchedule tiny(policy_for_target(16).value(), kInt4, 600, kLayers);
  EXPECT_EQ(tiny.budget_tokens(), 32 + 112);
}

}  // namespace
}  // namespace kvcrush
