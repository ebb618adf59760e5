#include "engine/kvcrush/token_scores.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <random>
#include <vector>

namespace kvcrush {
namespace {

std::vector<float> scores_of(const std::vector<float>& sums, int num_heads, int num_queries,
                             CandidateRange range, int kernel) {
  const int num_tokens = static_cast<int>(sums.size()) / num_heads;
  const int num_candidates = num_tokens - range.num_sink_tokens - range.window_tokens;
  std::vector<float> scores(static_cast<std::size_t>(num_heads * num_candidates));
  ScoreScratch scratch;
  snapkv_scores({sums, num_queries, num_heads, num_tokens}, range, kernel, scratch, scores);
  return scores;
}

TEST(SnapKvScores, DividesByQueriesAndCutsToCandidates) {
  EXPECT_EQ(scores_of({100, 2, 4, 6, 100, 100, 8, 10, 12, 100}, 2, 2, {1, 1}, 1),
            (std::vector<float>{1, 2, 3, 4, 5, 6}));
}

TEST(SnapKvScores, PoolDoesNotReachIntoSinksWindowOrOtherHeads) {
  EXPECT_EQ(scores_of({100, 1, 2, 3, 100, 100, 9, 0, 0, 100}, 2, 1, {1, 1}, 3),
            (std::vector<float>{2, 3, 3, 9, 9, 0}));
}

TEST(SnapKvScores, MatchesPlainPoolForEveryKernel) {
  std::mt19937 generator(3);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (const int num_candidates : {1, 2, 5, 64, 131}) {
    std::vector<float> sums(static_cast<std::size_t>(num_candidates) + 1);
    for (float& value : sums) value = uniform(generator);
    for (int kernel = 1; kernel <= 63; kernel += 2) {
      std::vector<float> expected;
      for (int t = 0; t < num_candidates; ++t) {
        const int begin = std::max(0, t - kernel / 2);
        const int end = std::min(num_candidates, t + kernel / 2 + 1);
        expected.push_back(*std::max_element(sums.begin() + begin, sums.begin() + end));
      }
      EXPECT_EQ(scores_of(sums, 1, 1, {0, 1}, kernel), expected) << num_candidates << " kernel " << kernel;
    }
  }
}

}  // namespace
}  // namespace kvcrush
