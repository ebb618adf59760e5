#include "client/cli/comparison.h"

#include <gtest/gtest.h>

#include <sstream>

#include "client/cli/run_report.h"

namespace kvcrush::cli {
namespace {

TEST(FirstDifference, IsUnsetForEqualTexts) {
  EXPECT_FALSE(first_difference("", ""));
  EXPECT_FALSE(first_difference("same text", "same text"));
  EXPECT_EQ(describe(first_difference("a", "a")), "identical");
}

TEST(FirstDifference, GivesOffsetAndWordsOfBoth) {
  const auto difference = first_difference("the quick brown fox", "the quick red fox");
  ASSERT_TRUE(difference);
  EXPECT_EQ(difference->offset, 10U);
  EXPECT_EQ(difference->shared, "the quick ");
  EXPECT_EQ(difference->first, "brown fox");
  EXPECT_EQ(difference->second, "red fox");
}

TEST(FirstDifference, SeesThatOneTextEndsEarlier) {
  const auto difference = first_difference("abc", "abcdef");
  ASSERT_TRUE(difference);
  EXPECT_EQ(difference->offset, 3U);
  EXPECT_EQ(difference->first, "(end of text)");
  EXPECT_EQ(difference->second, "def");
}

TEST(FirstDifference, CountsCharactersAndNeverCutsOne) {
  // e-acute and e-grave share their first byte.
  const auto difference = first_difference("\xC3\xA9t\xC3\xA9", "\xC3\xA9t\xC3\xA8");
  ASSERT_TRUE(difference);
  EXPECT_EQ(difference->offset, 2U);
  EXPECT_EQ(difference->first, "\xC3\xA9");
  EXPECT_EQ(difference->second, "\xC3\xA8");
}

TEST(FirstDifference, ShortensLongTexts) {
  const std::string same(200, 's');
  const auto difference = first_difference(same + std::string(100, 'a'), same + "b\nc");
  ASSERT_TRUE(difference);
  EXPECT_EQ(difference->offset, 200U);
  EXPECT_EQ(difference->shared, "..." + std::string(40, 's'));
  EXPECT_EQ(difference->first, std::string(40, 'a') + "...");
  EXPECT_EQ(difference->second, "b c");
}

v1::GetModelInfoResponse small_model() {
  v1::GetModelInfoResponse model;
  model.set_block_size_tokens(16);
  model.set_num_layers(2);
  model.set_block_bytes(1 << 20);
  return model;
}

TEST(ComparisonTable, RoundsBlocksUpPerLayer) {
  EXPECT_EQ(full_kv_bytes(small_model(), 0), 0);
  EXPECT_EQ(full_kv_bytes(small_model(), 16), 2 << 20);
  EXPECT_EQ(full_kv_bytes(small_model(), 17), 4 << 20);
}

TEST(ComparisonTable, ShowsWhatPruningSaved) {
  RunRecord full;
  full.finish.mutable_usage()->set_prompt_tokens(60);
  full.finish.mutable_usage()->set_completion_tokens(4);
  full.finish.mutable_usage()->set_time_to_first_token_ms(100);
  full.finish.mutable_usage()->set_total_ms(160);
  RunRecord pruned = full;
  auto& report = *pruned.finish.mutable_compression();
  report.set_enabled(true);
  report.set_pruned(true);
  report.set_kv_bytes_before(8 << 20);
  report.set_kv_bytes_after(2 << 20);
  report.set_blocks_freed(6);
  report.mutable_tokens_kept()->set_min(15);
  report.mutable_tokens_kept()->set_max(15);
  std::ostringstream out;
  comparison_table(small_model(), full, pruned).print(out);
  const std::string table = out.str();
  EXPECT_NE(table.find("8.00          2.00  0.25x"), std::string::npos) << table;
  EXPECT_NE(table.find("15 per layer"), std::string::npos) << table;
  EXPECT_NE(table.find("20.00"), std::string::npos) << "(160 - 100) / 3 ms per token\n" << table;
}

TEST(ComparisonTable, ShowsWhatADtypeSavedWithoutPruning) {
  v1::GetModelInfoResponse model = small_model();
  model.set_kv_dtype("f32");
  RunRecord full;
  full.finish.mutable_usage()->set_prompt_tokens(16);  // 2 MiB in the pool's own dtype
  RunRecord quantised = full;
  auto& report = *quantised.finish.mutable_compression();
  report.mutable_applied()->set_kv_dtype(v1::KV_DTYPE_INT4);
  report.set_kv_bytes_full_16bit(1 << 20);
  report.set_compression_ratio(4);
  std::ostringstream out;
  comparison_table(model, full, quantised).print(out);
  const std::string table = out.str();
  EXPECT_NE(table.find("f32     int4"), std::string::npos) << table;
  EXPECT_NE(table.find("2.00     0.25  0.12x"), std::string::npos) << table;
  EXPECT_NE(table.find("4.00x"), std::string::npos) << table;
}

TEST(ComparisonTable, SaysAllTokensWereKeptWhenNothingWasPruned) {
  RunRecord full;
  full.finish.mutable_usage()->set_prompt_tokens(10);
  std::ostringstream out;
  comparison_table(small_model(), full, full).print(out);
  EXPECT_NE(out.str().find("1.00x"), std::string::npos) << out.str();
}

TEST(Table, AlignsColumns) {
  Table table({"name", "a"});
  table.add_row({"x", "100"});
  std::ostringstream out;
  table.print(out);
  EXPECT_EQ(out.str(), "name    a\n---------\nx     100\n");
  EXPECT_THROW(table.add_row({"too few"}), std::logic_error);
}

TEST(Table, FormatsNumbers) {
  EXPECT_EQ(with_thousands(0), "0");
  EXPECT_EQ(with_thousands(999), "999");
  EXPECT_EQ(with_thousands(1000), "1,000");
  EXPECT_EQ(with_thousands(-1234567), "-1,234,567");
  EXPECT_EQ(with_thousands(-123), "-123");
  EXPECT_EQ(fixed(2.345, 1), "2.3");
  EXPECT_EQ(mib(3 << 19), "1.50");
}

TEST(RunReport, NeedsTwoTokensForATimePerToken) {
  v1::Usage usage;
  usage.set_completion_tokens(1);
  usage.set_total_ms(5);
  EXPECT_EQ(ms_per_token(usage), 0);
}

std::string summary_of(const v1::FinishInfo& finish) {
  std::ostringstream out;
  print_summary(out, finish);
  return out.str();
}

TEST(RunReport, SaysHowTheCacheWasKeptAndWhatItReached) {
  v1::FinishInfo finish;
  EXPECT_NE(summary_of(finish).find("compression: off\n"), std::string::npos);
  auto& report = *finish.mutable_compression();
  report.mutable_applied()->set_policy(v1::BASE_POLICY_OFF);
  report.mutable_applied()->set_kv_dtype(v1::KV_DTYPE_INT8);
  report.set_kv_bytes_full_16bit(1 << 20);
  report.set_compression_ratio(1.94);
  EXPECT_NE(summary_of(finish).find("compression: off, int8\n"), std::string::npos) << summary_of(finish);
  EXPECT_NE(summary_of(finish).find("(1.00 MiB) is 1.94x"), std::string::npos) << summary_of(finish);
  report.set_enabled(true);
  report.set_budget_tokens(64);
  report.set_note("short\nprompt");
  report.mutable_applied()->set_policy(v1::BASE_POLICY_H2O);
  const std::string summary = summary_of(finish);
  EXPECT_NE(summary.find("h2o, int8; nothing pruned"), std::string::npos) << summary;
  EXPECT_NE(summary.find("note:        short\\nprompt\n"), std::string::npos) << summary;
}

TEST(RunReport, JsonIsOneLineWithTheNamesOfTheProto) {
  v1::GenerateResponse chunk;
  chunk.set_request_id("r");
  chunk.set_text("a\nb\"");
  const auto json = to_json_line(chunk);
  EXPECT_EQ(json.find('\n'), std::string::npos);
  EXPECT_NE(json.find("\"request_id\":\"r\""), std::string::npos) << json;
  EXPECT_NE(json.find("\"index\":0"), std::string::npos) << json;
  EXPECT_NE(json.find("a\\nb\\\""), std::string::npos) << json;
}

}  // namespace
}  // namespace kvcrush::cli
