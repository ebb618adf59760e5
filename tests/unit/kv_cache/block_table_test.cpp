#include "engine/kv_cache/sequence_cache.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace kvcrush {
namespace {

// 16 float tokens to a block; int4 packs 112, its float16 tail 32.
constexpr cpu::KvFormat kFloat{.tail = KvDtype::kF32, .packed = KvDtype::kF32, .tail_tokens_per_block = 16};
constexpr cpu::KvFormat kPacked{.tail = KvDtype::kF16,
                                .packed = KvDtype::kInt4,
                                .tail_tokens_per_block = 32,
                                .packed_tokens_per_block = 112};

TEST(BlocksForTest, RoundsEachPartUp) {
  EXPECT_EQ(blocks_for(kFloat, 0, 0), 0);
  EXPECT_EQ(blocks_for(kFloat, 0, 1), 1);
  EXPECT_EQ(blocks_for(kFloat, 0, 16), 1);
  EXPECT_EQ(blocks_for(kFloat, 0, 17), 2);
  EXPECT_EQ(blocks_for(kPacked, 112, 32), 2);
  EXPECT_EQ(blocks_for(kPacked, 113, 33), 4);
}

TEST(BlockTableTest, PackedTokensComeFirst) {
  BlockPool pool(10);
  BlockTable table(pool, kPacked);
  table.extend(300);
  EXPECT_EQ(pool.num_used(), 10);
  EXPECT_EQ(table.shrink(256, 32), 6);  // packed in place: 3 blocks and 1
  EXPECT_EQ(table.num_packed_tokens(), 256);
  EXPECT_EQ(table.num_cached_tokens(), 288);
  table.extend(1);
  EXPECT_EQ(pool.num_used(), 5);
  const cpu::CachedLayer cached = table.cached();
  EXPECT_EQ(cpu::tile_of_slot(cached, 255).dtype, KvDtype::kInt4);
  EXPECT_EQ(cpu::tile_of_slot(cached, 255).block, table.blocks()[2]);
  EXPECT_EQ(cpu::tile_of_slot(cached, 256).dtype, KvDtype::kF16);
  EXPECT_EQ(cpu::tile_of_slot(cached, 288).block, table.blocks()[4]);
}

TEST(SequenceCacheTest, AssignIsAllOrNothing) {
  BlockPool pool(7);
  SequenceCache cache(pool, 2, kPacked);
  const std::vector<SequenceCache::LayerShape> shapes = {{112, 32, 9}, {224, 33, 0}};
  {
    BlockTable other(pool, kFloat);
    other.extend(20);
    EXPECT_FALSE(cache.try_assign(shapes));
    EXPECT_EQ(pool.num_used(), 2);
  }
  EXPECT_TRUE(cache.try_assign(shapes));
  EXPECT_EQ(pool.num_used(), 6);
  EXPECT_EQ(cache.num_evicted(0), 9);
  cache.drop_newest(1);
  EXPECT_EQ(pool.num_used(), 5);
  EXPECT_EQ(cache.layer(1).num_cached_tokens(), 256);
  EXPECT_EQ(cache.num_evicted(1), 0);
}

TEST(BlockTableTest, ExtendTakesOnlyWhatIsMissing) {
  BlockPool pool(10);
  BlockTable table(pool, kFloat);
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
  BlockPool pool(10);
  BlockTable table(pool, kFloat);
  table.extend(100);
  EXPECT_EQ(pool.num_used(), 7);
  EXPECT_EQ(table.shrink(0, 33), 4);
  EXPECT_EQ(pool.num_used(), 3);
  EXPECT_EQ(table.shrink(0, 33), 0);
  EXPECT_EQ(table.shrink(0, 0), 3);
  EXPECT_EQ(pool.num_used(), 0);
}

TEST(BlockTableTest, MovingMovesOwnership) {
  BlockPool pool(4);
  BlockTable first(pool, kFloat);
  first.extend(20);
  BlockTable second(std::move(first));
  EXPECT_EQ(second.num_cached_tokens(), 20);
  EXPECT_EQ(pool.num_used(), 2);
  BlockTable third(pool, kFloat);
  third.extend(5);
  third = std::move(second);
  EXPECT_EQ(pool.num_used(), 2);
  EXPECT_EQ(third.num_cached_tokens(), 20);
}

TEST(BlockTableTest, DestructionGivesBack) {
  BlockPool pool(4);
  {
    BlockTable table(pool, kFloat);
    table.extend(64);
    EXPECT_EQ(pool.num_free(), 0);
  }
  EXPECT_EQ(pool.num_free(), 4);
}

TEST(SequenceCacheTest, ExtendsAllLayersOrNone) {
  BlockPool pool(5);
  SequenceCache cache(pool, 3, kFloat);
  EXPECT_TRUE(cache.try_extend(16));
  EXPECT_EQ(pool.num_used(), 3);
  EXPECT_FALSE(cache.try_extend(1));  // needs three, two are left
  EXPECT_EQ(pool.num_used(), 3);
  EXPECT_EQ(cache.max_cached_tokens(), 16);
}

TEST(SequenceCacheTest, CountsEvictionsPerLayer) {
  BlockPool pool(40);
  SequenceCache cache(pool, 2, kFloat);
  ASSERT_TRUE(cache.try_extend(100));
  EXPECT_EQ(cache.shrink(0, 0, 20), 5);
  EXPECT_EQ(cache.shrink(1, 0, 50), 3);
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
  BlockPool pool(100);
  std::mt19937 engine(3);
  std::vector<SequenceCache> caches;
  for (int i = 0; i < 6; ++i) caches.emplace_back(pool, 3, kFloat);
  for (int step = 0; step < 2000; ++step) {
    SequenceCache& cache = caches[engine() % caches.size()];
    switch (engine() % 4) {
      case 0:
        cache.clear();
        break;
      case 1: {
        const int layer = static_cast<int>(engine() % 3);
        const int cached = cache.layer(layer).num_cached_tokens();
        cache.shrink(layer, 0, cached == 0 ? 0 : static_cast<int>(engine() % cached));
        break;
      }
      default:
        static_cast<void>(cache.try_extend(static_cast<int>(engine() % 40)));
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
