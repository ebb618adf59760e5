#include "client/cli/score_report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

namespace kvcrush::cli {
namespace {

v1::VariantScore variant_of(int index, const std::vector<float>& logprobs, const std::vector<float>& kl,
                            const std::vector<bool>& agrees) {
  v1::VariantScore variant;
  variant.set_index(index);
  variant.mutable_logprobs()->Assign(logprobs.begin(), logprobs.end());
  variant.mutable_kl_divergences()->Assign(kl.begin(), kl.end());
  variant.mutable_top1_agrees()->Assign(agrees.begin(), agrees.end());
  return variant;
}

TEST(ScoreSummary, LeavesTheFirstTokenOutOfWhatPruningChanges) {
  const ScoreSummary summary = summarise(variant_of(0, {-1, -2, -3}, {9, 0.5F, 0.25F}, {false, true, false}));
  EXPECT_DOUBLE_EQ(summary.mean_logprob, -2);
  EXPECT_DOUBLE_EQ(summary.perplexity, std::exp(2.0));
  EXPECT_DOUBLE_EQ(summary.mean_kl.value(), 0.375);
  EXPECT_DOUBLE_EQ(summary.agreement.value(), 0.5);
}

TEST(ScoreSummary, HasNoComparisonWhereNoneWasMade) {
  const ScoreSummary summary = summarise(variant_of(0, {-1, -1}, {}, {}));
  EXPECT_FALSE(summary.mean_kl.has_value());
  EXPECT_FALSE(summary.agreement.has_value());
}

TEST(ScoreTable, ShowsTheFullCacheAndEveryVariantByItsLabel) {
  v1::ScoreResponse response;
  for (const float logprob : {-1.0F, -1.0F}) response.add_full_logprobs(logprob);
  *response.add_variants() = variant_of(0, {-1, -1}, {0, 0.25F}, {true, true});
  auto& second = *response.add_variants();
  second = variant_of(1, {-1, -2}, {0, 0.125F}, {true, false});
  second.mutable_compression()->set_compression_ratio(12.8);
  second.mutable_compression()->set_pruned(true);
  second.mutable_compression()->mutable_tokens_kept()->set_mean(1234.4);
  std::ostringstream out;
  score_table(response, {"policy=off", "target_compression=16"}).print(out);
  const std::string table = out.str();
  EXPECT_NE(table.find("full cache"), std::string::npos) << table;
  EXPECT_NE(table.find("policy=off"), std::string::npos) << table;
  EXPECT_NE(table.find("0.2500"), std::string::npos) << table;
  EXPECT_NE(table.find("100.0 %"), std::string::npos) << table;
  const std::string last = table.substr(table.rfind("target_compression=16"));
  for (const char* cell : {"-1.5000", "4.482", "0.1250", "0.0 %", "1,234", "12.80x"})
    EXPECT_NE(last.find(cell), std::string::npos) << cell << " in " << last;
}

TEST(ScoreTable, ScoresOfTheServersDefaultWithoutComparison) {
  v1::ScoreResponse response;
  *response.add_variants() = variant_of(0, {-1, -1}, {}, {});
  std::ostringstream out;
  score_table(response, {}).print(out);
  EXPECT_EQ(out.str().find("full cache"), std::string::npos) << out.str();
  EXPECT_NE(out.str().find("server's default  "), std::string::npos) << out.str();
}

}  // namespace
}  // namespace kvcrush::cli
