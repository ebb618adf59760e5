#include "engine/scheduler/capacity.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "engine/kv_cache/block_pool.h"
#include "engine/kv_cache/kv_format.h"
#include "engine/kv_cache/sequence_cache.h"

namespace kvcrush {
namespace {

constexpr int kLayers = 3;
constexpr int kHeadDim = 64;

CacheSchedule schedule_of(const CachePolicy& policy, KvDtype dtype, int num_tokens) {
  return {policy, make_kv_format(dtype, kHeadDim), num_tokens, kLayers};
}

CachePolicy budget(double fraction) {
  CachePolicy policy;
  policy.compression = preset_params(Preset::kDefault, BasePolicy::kSnapKv);
  policy.compression->budget_fraction = fraction;
  return policy;
}

// Full caches: as many as a pool really takes.
TEST(Capacity, EqualsWhatThePoolTakes) {
  for (const KvDtype dtype : {KvDtype::kF32, KvDtype::kBF16}) {
    for (const int num_blocks : {2, 3, 100, 333, 1000}) {
      for (const int num_tokens : {1, 16, 17, 100, 500}) {
        BlockPool pool(num_blocks);
        std::vector<std::unique_ptr<SequenceCache>> caches;
        std::int64_t taken = -1;
        bool fits = true;
        while (fits) {
          caches.push_back(std::make_unique<SequenceCache>(pool, kLayers, make_kv_format(dtype, kHeadDim)));
          fits = caches.back()->try_extend(num_tokens);
          ++taken;
        }
        EXPECT_EQ(sequences_that_fit(schedule_of({}, dtype, num_tokens), num_tokens, num_blocks), taken)
            << num_blocks << " blocks, " << num_tokens << " tokens";
        caches.clear();
      }
    }
  }
}

// Pruned ones: so many prompts fit one after the other, each pruned before the next one comes, and grow until
// they are pruned again.
TEST(Capacity, PrunedSequencesNeverGiveWay) {
  constexpr int kTokens = 1000;
  constexpr int kBlocks = 1200;
  const CacheSchedule schedule = schedule_of(budget(0.25), KvDtype::kF32, kTokens);
  const std::int64_t full = sequences_that_fit(schedule_of({}, KvDtype::kF32, kTokens), kTokens, kBlocks);
  const std::int64_t pruned = sequences_that_fit(schedule, kTokens, kBlocks);
  EXPECT_EQ(full, 6);
  EXPECT_GT(pruned, 3 * full);
  BlockPool pool(kBlocks);
  std::vector<std::unique_ptr<SequenceCache>> caches;
  for (std::int64_t i = 0; i < pruned; ++i) {
    caches.push_back(std::make_unique<SequenceCache>(pool, kLayers, make_kv_format(KvDtype::kF32, kHeadDim)));
    ASSERT_TRUE(caches.back()->try_extend(kTokens)) << i << " of " << pruned;
    for (int layer = 0; layer < kLayers; ++layer)
      caches.back()->shrink(layer, 0, schedule.layer_budget(layer));
    ASSERT_TRUE(caches.back()->try_extend(schedule.hysteresis_tokens()));
  }
  caches.clear();
}

TEST(Capacity, NothingFitsWhereOneIsTooMany) {
  EXPECT_EQ(sequences_that_fit(schedule_of({}, KvDtype::kF32, 1000), 1000, kLayers * 63 - 1), 0);
  EXPECT_EQ(sequences_that_fit(schedule_of({}, KvDtype::kF32, 1000), 1000, kLayers * 63), 1);
  // A prompt is there before it is pruned.
  EXPECT_EQ(sequences_that_fit(schedule_of(budget(0.1), KvDtype::kF32, 1000), 1000, kLayers * 63 - 1), 0);
}

TEST(Capacity, PackedSequencesAreSmaller) {
  const auto fit = [](KvDtype dtype) {
    return sequences_that_fit(schedule_of({}, dtype, 4096), 4096, 100'000);
  };
  EXPECT_LT(fit(KvDtype::kF16), fit(KvDtype::kInt8));
  EXPECT_LT(fit(KvDtype::kInt8), fit(KvDtype::kInt4));
}

}  // namespace
}  // namespace kvcrush
