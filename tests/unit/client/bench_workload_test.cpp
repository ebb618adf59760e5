#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include "client/bench/workload.h"
#include "client/cli/bench_options.h"

namespace kvcrush::bench {
namespace {

v1::GetModelInfoResponse tiny_model() {
  v1::GetModelInfoResponse model;
  model.set_vocab_size(50);
  model.set_max_context_tokens(1000);
  model.set_bos_token_id(1);
  model.add_stop_token_ids(2);
  return model;
}

Workload workload_of(WorkloadOptions options) {
  auto workload = Workload::make(std::move(options), tiny_model());
  EXPECT_TRUE(workload.ok()) << workload.status().to_string();
  return *workload;
}

TEST(Workload, RequestsAreAFunctionOfSeedAndNumber) {
  const Workload first = workload_of({.prompt_tokens = {20, 60}, .output_tokens = {1, 9}, .seed = 5});
  const Workload same = workload_of({.prompt_tokens = {20, 60}, .output_tokens = {1, 9}, .seed = 5});
  const Workload other = workload_of({.prompt_tokens = {20, 60}, .output_tokens = {1, 9}, .seed = 6});
  std::set<std::string> prompts;
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(first.request(i).SerializeAsString(), same.request(i).SerializeAsString());
    EXPECT_NE(first.request(i).token_ids().SerializeAsString(),
              other.request(i).token_ids().SerializeAsString());
    prompts.insert(first.request(i).token_ids().SerializeAsString());
  }
  EXPECT_EQ(prompts.size(), 50U);
}

TEST(Workload, LengthsCoverTheirRangesAndIdsTheVocabularyWithoutSpecialTokens) {
  const Workload workload = workload_of({.prompt_tokens = {10, 14}, .output_tokens = {3, 5}});
  std::map<int, int> prompt_lengths;
  std::map<int, int> output_lengths;
  std::set<int> ids;
  for (int i = 0; i < 500; ++i) {
    const auto request = workload.request(i);
    ++prompt_lengths[request.token_ids().ids_size()];
    ++output_lengths[request.sampling().max_tokens()];
    ids.insert(request.token_ids().ids().begin(), request.token_ids().ids().end());
    EXPECT_TRUE(request.sampling().ignore_eos());
  }
  EXPECT_EQ(prompt_lengths.size(), 5U);
  EXPECT_EQ(prompt_lengths.begin()->first, 10);
  EXPECT_EQ(prompt_lengths.rbegin()->first, 14);
  for (const auto& [length, count] : prompt_lengths) EXPECT_NEAR(count, 100, 45) << length;  // 5 deviations
  EXPECT_EQ(output_lengths.size(), 3U);
  EXPECT_EQ(ids.size(), 48U);
  EXPECT_EQ(ids.count(1) + ids.count(2), 0U);
  EXPECT_EQ(*ids.rbegin(), 49);
}

TEST(Workload, SharesThePrefixAndNothingElse) {
  const Workload workload = workload_of({.prompt_tokens = {40, 40}, .shared_prefix_tokens = 30});
  const auto first = workload.request(0).token_ids();
  const auto second = workload.request(1).token_ids();
  ASSERT_EQ(first.ids_size(), 40);
  EXPECT_TRUE(std::equal(first.ids().begin(), first.ids().begin() + 30, second.ids().begin()));
  EXPECT_FALSE(std::equal(first.ids().begin() + 30, first.ids().end(), second.ids().begin() + 30));
}

TEST(Workload, KeepsWhatEveryRequestHas) {
  WorkloadOptions options;
  options.base.mutable_compression()->set_budget_fraction(0.25);
  options.prompts = {"a", "b"};
  const Workload workload = workload_of(options);
  EXPECT_EQ(workload.request(0).text(), "a");
  EXPECT_EQ(workload.request(3).text(), "b");
  EXPECT_EQ(workload.request(3).compression().budget_fraction(), 0.25);
  EXPECT_NE(workload.request(0).request_id(), workload.request(2).request_id());
}

TEST(Workload, TenantsComeInProportionToTheirWeights) {
  const Workload workload = workload_of({.tenants = {{"gold", 3}, {"free", 1}}});
  int gold = 0;
  for (int i = 0; i < 4000; ++i) gold += workload.tenant(i) == 0 ? 1 : 0;
  EXPECT_NEAR(gold, 3000, 4 * 27.4);  // four deviations of a binomial
  EXPECT_EQ(workload_of({}).tenant(5), 0);
}

TEST(Workload, RefusesLengthsThatDoNotFit) {
  const auto refused = Workload::make({.prompt_tokens = {1, 900}, .output_tokens = {101, 101}}, tiny_model());
  EXPECT_NE(refused.status().message.find("1000"), std::string::npos) << refused.status().message;
  EXPECT_FALSE(Workload::make({.prompt_tokens = {5, 9}, .shared_prefix_tokens = 5}, tiny_model()).ok());
}

TEST(TokenRange, IsANumberOrTwo) {
  EXPECT_EQ(parse_token_range("7")->max, 7);
  EXPECT_EQ(parse_token_range("7:9")->min, 7);
  EXPECT_EQ(parse_token_range("7:9")->max, 9);
  for (const char* text : {"", "x", "0", "9:7", "7:", ":7", "1:2:3", "-4", "99999999999"})
    EXPECT_FALSE(parse_token_range(text).ok()) << text;
}

TEST(Shares, AreNamesWithWeights) {
  const auto shares = *parse_shares("gold:3,free,a:b:0.5");
  ASSERT_EQ(shares.size(), 3U);
  EXPECT_EQ(shares[0].weight, 3);
  EXPECT_EQ(shares[1].name, "free");
  EXPECT_EQ(shares[1].weight, 1);
  EXPECT_EQ(shares[2].name, "a:b");
  for (const char* text : {"", ",", "a:0", "a:-1", "a:x", ":1", "two words", "a:nan", "a:inf"})
    EXPECT_FALSE(parse_shares(text).ok()) << text;
}

TEST(PromptLines, AreTextsOrJsonStrings) {
  const auto prompts = *parse_prompt_lines("p", "one\n\n\"two\\nlines\"\nthree \"quoted\"\n");
  EXPECT_EQ(prompts, (std::vector<std::string>{"one", "two\nlines", "three \"quoted\""}));
  EXPECT_NE(parse_prompt_lines("p", "a\n\"open\n").status().message.find("p:2"), std::string::npos);
  EXPECT_FALSE(parse_prompt_lines("p", "\n").ok());
}

class BenchOptionsTest : public ::testing::Test {
 protected:
  BenchOptionsTest() { cli::add_bench_options(app_, options_); }

  void parse(std::vector<std::string> words) {
    std::reverse(words.begin(), words.end());  // CLI11 takes the words last first
    app_.parse(words);
  }

  client::Status settle(std::vector<std::string> words) {
    parse(std::move(words));
    return cli::settle(options_, server_);
  }

  CLI::App app_;
  cli::BenchOptions options_;
  cli::ServerOptions server_;
};

TEST_F(BenchOptionsTest, FillTheWholePlan) {
  server_.timeout_s = 9;
  server_.retries = 4;
  ASSERT_TRUE(settle({"--rate",
                      "2.5",
                      "--duration",
                      "30",
                      "--warmup",
                      "5",
                      "--grace",
                      "7",
                      "--seed",
                      "11",
                      "--prompt-tokens",
                      "100:500",
                      "--output-tokens",
                      "32",
                      "--shared-prefix-tokens",
                      "64",
                      "--tenants",
                      "a:2,b",
                      "--slo-ttft-ms",
                      "300",
                      "--slo-itl-ms",
                      "40",
                      "--connections",
                      "3",
                      "--policy",
                      "snapkv",
                      "--budget",
                      "25%"})
                  .ok());
  EXPECT_EQ(options_.plan.rate_per_s, 2.5);
  EXPECT_EQ(options_.plan.duration_s, 30);
  EXPECT_EQ(options_.plan.warmup_s, 5);
  EXPECT_EQ(options_.plan.grace_s, 7);
  EXPECT_EQ(options_.plan.seed, 11U);
  EXPECT_EQ(options_.plan.timeout_s, 9);
  EXPECT_EQ(options_.plan.retry.max_retries, 4);
  EXPECT_EQ(options_.workload.prompt_tokens.max, 500);
  EXPECT_EQ(options_.workload.output_tokens.min, 32);
  EXPECT_EQ(options_.workload.shared_prefix_tokens, 64);
  EXPECT_EQ(options_.workload.tenants.size(), 2U);
  EXPECT_EQ(options_.slo.ttft_ms, 300);
  EXPECT_EQ(options_.slo.itl_ms, 40);
  EXPECT_EQ(options_.num_connections, 3);
  EXPECT_EQ(options_.workload.base.compression().policy(), v1::BASE_POLICY_SNAPKV);
  EXPECT_EQ(options_.workload.base.sampling().temperature(), 0);
}

TEST_F(BenchOptionsTest, ReadThePromptFile) {
  const std::string path = ::testing::TempDir() + "kvcrush_prompts.txt";
  std::ofstream(path) << "one\ntwo\n";
  ASSERT_TRUE(settle({"--concurrency", "4", "--requests", "10", "--prompt-file", path}).ok());
  EXPECT_EQ(options_.workload.prompts.size(), 2U);
  EXPECT_EQ(options_.plan.concurrency, 4);
  EXPECT_EQ(options_.plan.num_requests, 10);
}

TEST_F(BenchOptionsTest, RefuseWhatDoesNotGoTogether) {
  EXPECT_FALSE(settle({}).ok()) << "no load";
  server_.tenant = "x";
  EXPECT_FALSE(settle({"--rate", "1", "--tenants", "a,b"}).ok());
  EXPECT_THROW(parse({"--rate", "1", "--concurrency", "2"}), CLI::ExcludesError);
  EXPECT_THROW(parse({"--rate", "1", "--duration", "2", "--requests", "2"}), CLI::ExcludesError);
  EXPECT_THROW(parse({"--rate", "1", "--prompt-file", "p", "--prompt-tokens", "3"}), CLI::ExcludesError);
  EXPECT_THROW(parse({"--rate", "0"}), CLI::ValidationError);
  EXPECT_THROW(parse({"--rate", "1", "--prompt-tokens", "9:3"}), CLI::ValidationError);
  EXPECT_THROW(parse({"--rate", "1", "--tenants", "a:x"}), CLI::ValidationError);
}

}  // namespace
}  // namespace kvcrush::bench
