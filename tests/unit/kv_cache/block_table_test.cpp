#include "engine/kv_cache/block_table.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace kvcrush {
namespace {

TEST(BlockPoolTest, CountsAndRounding) {
  BlockPool pool(10, 16);
  EXPECT_EQ(pool.num_free(), 10);
  EXPECT_EQ(pool.blocks_for(0), 0);
  EXPECT_EQ(pool.blocks_for(1), 1);
  EXPECT_EQ(pool.blocks_for(16), 1);
  EXPECT_EQ(pool.blocks_for(17), 2);
}

TEST(BlockTableTest, ExtendTakesOnlyWhatIsMissing) {
  BlockPool pool(10, 16);
  BlockTable table(pool);
  table.extend(10);
  EXPECT_EQ(pool.num_used(), 1);
  table.extend(6);
  EXPECT_EQ(pool.num_used(), 1);
  table.extend(1);
  EXPECT_EQ(pool.num_used(), 2);
  EXPECT_EQ(table.num_cached_tokens(), 17);
  EXPECT_EQ(table.blocks_missing_for(15), 0);
  EXPECT_EQ(table.blocks_missing_for(16), 1);
}

TEST(BlockTableTest, TruncateFreesWholeBlocks) {
  BlockPool pool(10, 16);
  BlockTable table(pool);
  table.extend(100);
  EXPECT_EQ(pool.num_used(), 7);
  EXPECT_EQ(table.truncate(33), 4);
  EXPECT_EQ(pool.num_used(), 3);
  EXPECT_EQ(table.truncate(33), 0);
  EXPECT_EQ(table.truncate(0), 3);
  EXPECT_EQ(pool.num_used(), 0);
}

TEST(BlockTableTest, MovingMovesOwnership) {
  BlockPool pool(4, 16);
  BlockTable first(pool);
  first.extend(20);
  BlockTable second(std::move(first));
  EXPECT_EQ(second.num_cached_tokens(), 20);
  EXPECT_EQ(pool.num_used(), 2);
  BlockTable third(pool);
  third.extend(5);
  third = std::move(second);
  EXPECT_EQ(pool.num_used(), 2);
  EXPECT_EQ(third.num_cached_tokens(), 20);
}

TEST(BlockTableTest, DestructionGivesBack) {
  BlockPool pool(4, 16);
  {
    BlockTable table(pool);
    table.extend(64);
    EXPECT_EQ(pool.num_free(), 0);
  }
  EXPECT_EQ(pool.num_free(), 4);
}

TEST(SequenceCacheTest, ExtendsAllLayersOrNone) {
  BlockPool pool(5, 16);
  SequenceCache cache(pool, 3);
  EXPECT_TRUE(cache.try_extend(16));
  EXPECT_EQ(pool.num_used(), 3);
  EXPECT_FALSE(cache.try_extend(1));  // needs three, two are left
  EXPECT_EQ(pool.num_used(), 3);
  EXPECT_EQ(cache.max_cached_tokens(), 16);
}

TEST(SequenceCacheTest, CountsEvictionsPerLayer) {
  BlockPool pool(40, 16);
  SequenceCache cache(pool, 2);
  ASSERT_TRUE(cache.try_extend(100));
  EXPECT_EQ(cache.truncate(0, 20), 5);
  EXPECT_EQ(cache.truncate(1, 50), 3);
  EXPECT_EQ(cache.num_evicted(0), 80);
  EXPECT_EQ(cache.num_evicted(1), 50);
  EXPECT_EQ(cache.max_cached_tokens(), 50);
  EXPECT_EQ(cache.num_blocks(), pool.num_used());
  cache.clear();
  EXPECT_EQ(pool.num_used(), 0);
  EXPECT_EQ(cache.num_evicted(0), 0);
}

// Random life of many sequences: no block is ever in two tables, and all come back.
TEST(SequenceCacheTest, NoBlockIsShared) {
  BlockPool pool(200, 4);
  std::mt19937 engine(3);
  std::vector<SequenceCache> caches;
  for (int i = 0; i < 6; ++i) caches.emplace_back(pool, 3);
  for (int step = 0; step < 2000; ++step) {
    SequenceCache& cache = caches[engine() % caches.size()];
    switch (engine() % 4) {
      case 0:
        cache.clear();
        break;
      case 1: {
        const int layer = static_cast<int>(engine() % 3);
        const int cached = cache.layer(layer).num_cached_tokens();
        cache.truncate(layer, cached == 0 ? 0 : static_cast<int>(engine() % cached));
        break;
      }
      default:
        static_cast<void>(cache.try_extend(static_cast<int>(engine() % 20)));
        break;
    }
    std::set<BlockId> seen;
    int held = 0;
    for (const SequenceCache& each : caches) {
      for (int layer = 0; layer < 3; ++layer) {
        for (BlockId block : each.layer(layer).blocks()) {
          ASSERT_TRUE(seen.insert(block).second);
          ++held;
        }
      }
    }
    ASSERT_EQ(held, pool.num_used());
  }
}

}  // namespace
}  // namespace kvcrush
