// How attention is cut into blocks, and what a block takes of a GPU.
#include <gtest/gtest.h>

#include <map>

#include "engine/kernels/cuda/attention_plan.h"

namespace kvcrush::cuda {
namespace {

cpu::AttentionSequence sequence(int num_cached, int num_queries) {
  cpu::AttentionSequence result;
  result.num_queries = num_queries;
  result.cache.num_cached = num_cached;
  result.cache.format = {KvDtype::kF16, KvDtype::kF16, 32, 0};
  return result;
}

TEST(AttentionPlan, EveryQueryIsInOneTile) {
  for (const int group : {1, 3, 4, 5, 8, 16}) {
    for (const int head_dim : {64, 128, 256}) {
      std::vector<cpu::AttentionSequence> sequences;
      for (const int queries : {1, 2, 5, 16, 17, 64, 65, 300, 0})
        sequences.push_back(sequence(1000, queries));
      const AttentionPlan plan = plan_attention(sequences, group, 8, head_dim, 132, attention_rows(head_dim));
      std::map<std::pair<int, int>, int> seen;
      const auto cover = [&](const RowTile& tile, int most) {
        for (int q = tile.first_query; q < tile.first_query + most &&
                                       q < sequences[static_cast<std::size_t>(tile.sequence)].num_queries;
             ++q)
          ++seen[{tile.sequence, q}];
      };
      for (const RowTile& tile : plan.decode) cover(tile, kRowsPerWarp / group);
      for (const RowTile& tile : plan.prefill) cover(tile, attention_rows(head_dim) / group);
      int total = 0;
      for (const auto& one : sequences) total += one.num_queries;
      EXPECT_EQ(static_cast<int>(seen.size()), total);
      for (const auto& [query, times] : seen) EXPECT_EQ(times, 1) << query.first << ", " << query.second;
    }
  }
}

TEST(AttentionPlan, OneLongSequenceFillsTheCardAndManyAreNotSplit) {
  const std::vector<cpu::AttentionSequence> one = {sequence(32768, 1)};
  const AttentionPlan alone = plan_attention(one, 4, 8, 128, 132, 64);
  EXPECT_GT(alone.num_splits * 8, 3 * 132 * 9 / 10);
  EXPECT_LE(alone.num_splits, kMaxSplits);
  EXPECT_GT(partial_floats(alone, 8, 128), 0);
  const std::vector<cpu::AttentionSequence> many(49, sequence(32768, 1));
  EXPECT_EQ(plan_attention(many, 4, 8, 128, 132, 64).num_splits, 1);
  const std::vector<cpu::AttentionSequence> brief = {sequence(100, 1)};
  EXPECT_EQ(plan_attention(brief, 4, 8, 128, 132, 64).num_splits, 1);
  EXPECT_EQ(partial_floats(plan_attention(brief, 4, 8, 128, 132, 64), 8, 128), 0);
}

// A padded plan has room for sequences that are not there, and stays the same while caches grow a little.
TEST(AttentionPlan, PaddedPlansChangeSeldom) {
  int changes = 0;
  int last = 0;
  for (int cached = 1; cached <= 32768; cached += 16) {
    const std::vector<cpu::AttentionSequence> three(3, sequence(cached, 1));
    const AttentionPlan plan = plan_attention(three, 4, 8, 128, 132, 64, /*num_padded=*/4);
    ASSERT_EQ(plan.decode.size(), 4U);
    EXPECT_EQ(plan.decode[3], (RowTile{3, 0}));
    EXPECT_TRUE(plan.prefill.empty());
    EXPECT_EQ(plan.decode_rows, 4);
    changes += plan.num_splits != last ? 1 : 0;
    last = plan.num_splits;
  }
  EXPECT_LE(changes, 40);  // of 2,048 lengths
}

// Shared memory bounds how many blocks a multiprocessor holds: 227 KiB on an H100, 163 on an A100; one block
// may take 99 KiB even on consumer cards.
TEST(AttentionShape, BlocksFitTheCards) {
  for (const int head_dim : {64, 96, 128, 256}) {
    for (const bool decode : {true, false}) {
      for (const KvDtype widest : {KvDtype::kF16, KvDtype::kInt8, KvDtype::kInt4, KvDtype::kBF16}) {
        const int bytes = attention_shared_bytes(head_dim, decode, raw_staging(widest, head_dim));
        EXPECT_LE(bytes, 106 << 10) << head_dim << " " << to_string(widest);
        EXPECT_GE((227 << 10) / (bytes + 1024), 2) << "an H100 hides latency with two blocks";
      }
      const int f16_bytes = attention_shared_bytes(head_dim, decode, raw_staging(KvDtype::kF16, head_dim));
      EXPECT_LE(f16_bytes, 102 << 10);
    }
  }
}

TEST(AttentionShape, ThreeBlocksOfDecodeShareAProcessor) {
  for (const int head_dim : {64, 128, 256}) {
    EXPECT_LE(decode_shared_bytes(head_dim), 99 << 10) << "consumer cards";
    EXPECT_EQ(decode_blocks_per_processor(head_dim), 3) << head_dim;
    constexpr int kStatic = 6 << 10;  // queries, and what CUDA takes of each block
    EXPECT_LE(3 * (decode_shared_bytes(head_dim) + kStatic), 227 << 10) << head_dim;
    // Tiles of a unit lie in different banks: their distances cover the 128 bytes of all.
    for (const KvDtype dtype : {KvDtype::kInt8, KvDtype::kInt4})
      EXPECT_EQ(staged_tile_bytes(dtype, head_dim) % 128, 128 / unit_tiles(dtype)) << head_dim;
  }
}

}  // namespace
}  // namespace kvcrush::cuda
