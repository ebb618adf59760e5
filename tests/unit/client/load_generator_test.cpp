#include "client/bench/load_generator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "client/bench/summary.h"
#include "tests/unit/client/fake_server.h"

namespace kvcrush::bench {
namespace {

using namespace std::chrono_literals;
using client::Code;

class LoadGeneratorTest : public ::testing::Test {
 protected:
  LoadResult run(const LoadPlan& plan, WorkloadOptions options = {}, const std::stop_token& stop = {}) {
    v1::GetModelInfoResponse model;
    model.set_vocab_size(100);
    model.set_max_context_tokens(1000);
    options.prompt_tokens = {4, 4};
    const auto workload = Workload::make(std::move(options), model);
    EXPECT_TRUE(workload.ok());
    std::vector<client::Client> clients;
    auto client = client::Client::connect(fake_.target());
    EXPECT_TRUE(client.ok());
    clients.push_back(std::move(*client));
    LoadGenerator load(clients, *workload, plan);
    return load.run(stop);
  }

  // The largest number of requests that were in flight at a time.
  static int most_in_flight(const LoadResult& load) {
    std::vector<std::pair<double, int>> changes;
    for (const auto& record : load.records) {
      changes.emplace_back(record.sent_s, 1);
      changes.emplace_back(record.end_s, -1);
    }
    std::sort(changes.begin(), changes.end());
    int now = 0;
    int most = 0;
    for (const auto& [at_s, change] : changes) most = std::max(most, now += change);
    return most;
  }

  client::test::FakeServer fake_;
};

TEST_F(LoadGeneratorTest, AClosedLoopKeepsSoManyInFlightUntilAllAreDone) {
  fake_.service.pace = 20ms;
  const auto load = run({.concurrency = 6, .num_requests = 40});
  EXPECT_EQ(load.records.size(), 40U);
  EXPECT_EQ(fake_.service.calls, 40);
  EXPECT_LE(most_in_flight(load), 6);
  EXPECT_GE(most_in_flight(load), 5);
  std::set<std::int64_t> numbers;
  for (const auto& record : load.records) {
    numbers.insert(record.number);
    EXPECT_EQ(record.outcome, Outcome::kOk);
    EXPECT_EQ(record.num_tokens(), 3);
    EXPECT_GE(*record.ttft_ms(), 20) << "the server waits that long";
    EXPECT_GE(record.e2e_ms(), 60) << "three times";
    EXPECT_GE(record.e2e_ms(), *record.ttft_ms());
    EXPECT_LE(record.end_s, load.measure_to_s);
  }
  EXPECT_EQ(numbers.size(), 40U) << "each once";
}

TEST_F(LoadGeneratorTest, AnOpenLoopSendsWhenRequestsAreDueWhateverTheServerDoes) {
  fake_.service.pace = 100ms;  // an answer takes 300 ms, so a waiting generator would manage 3 a second
  const auto load = run({.rate_per_s = 100, .duration_s = 0.5, .seed = 1});
  PoissonArrivals arrivals(100, 1);
  std::vector<double> due;
  for (double at_s = arrivals.next_s(); at_s < 0.5; at_s = arrivals.next_s()) due.push_back(at_s);
  std::vector<double> seen;
  for (const auto& record : load.records) {
    seen.push_back(record.due_s);
    EXPECT_GE(record.sent_s, record.due_s);
    EXPECT_NEAR(record.e2e_ms(), (record.end_s - record.due_s) * 1000, 1e-9);
  }
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(seen, due) << "every arrival, at its time";
  EXPECT_GT(most_in_flight(load), 10);
  EXPECT_DOUBLE_EQ(load.measure_to_s, 0.5);
}

TEST_F(LoadGeneratorTest, TheWarmUpIsSentAndMarked) {
  fake_.service.pace = 2ms;
  const auto load = run({.concurrency = 2, .warmup_s = 0.2, .duration_s = 0.2});
  const auto warmup =
      std::count_if(load.records.begin(), load.records.end(), [](const auto& r) { return r.warmup; });
  EXPECT_GT(warmup, 2);
  EXPECT_GT(static_cast<std::ptrdiff_t>(load.records.size()) - warmup, 2);
  for (const auto& record : load.records) {
    EXPECT_EQ(record.warmup, record.due_s < 0.2);
    EXPECT_LT(record.due_s, 0.4);
  }
  EXPECT_DOUBLE_EQ(load.measure_from_s, 0.2);
}

TEST_F(LoadGeneratorTest, TriesAgainAsTheServerAsksAndCountsFromWhenTheRequestWasDue) {
  fake_.service.refusals = 3;
  fake_.service.retry_after_ms = "80";
  LoadPlan plan{.concurrency = 3, .num_requests = 3};
  plan.retry.max_retries = 2;
  const auto load = run(plan);
  ASSERT_EQ(load.records.size(), 3U);
  int retries = 0;
  for (const auto& record : load.records) {
    EXPECT_EQ(record.outcome, Outcome::kOk);
    EXPECT_GE(*record.ttft_ms(), 80.0 * record.retries);
    retries += record.retries;
  }
  EXPECT_EQ(retries, 3);
  EXPECT_EQ(fake_.service.calls, 6);
}

TEST_F(LoadGeneratorTest, FailuresKeepTheirCode) {
  fake_.service.refusals = 4;
  LoadPlan plan{.concurrency = 1, .num_requests = 4};
  plan.retry.max_retries = 1;
  plan.retry.initial_backoff = 1ms;
  const auto summary = summarise(run(plan), {});
  EXPECT_EQ(summary.counts.by_code.at(Code::kResourceExhausted), 2);
  EXPECT_EQ(summary.counts.by_code.at(Code::kOk), 2);
  EXPECT_EQ(summary.counts.retries, 2);
}

TEST_F(LoadGeneratorTest, RequestsEndAtTheirDeadline) {
  fake_.service.endless = true;
  const auto load = run({.concurrency = 4, .num_requests = 8, .timeout_s = 0.1});
  EXPECT_EQ(summarise(load, {}).counts.by_code.at(Code::kDeadlineExceeded), 8);
  for (const auto& record : load.records) EXPECT_GE(record.e2e_ms(), 95);
}

TEST_F(LoadGeneratorTest, WhatIsStillGoingAfterTheGraceIsCutOff) {
  fake_.service.endless = true;
  const auto start = std::chrono::steady_clock::now();
  const auto load = run({.concurrency = 4, .duration_s = 0.1, .grace_s = 0.1});
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
  EXPECT_FALSE(load.interrupted);
  ASSERT_EQ(load.records.size(), 4U);
  for (const auto& record : load.records) EXPECT_EQ(record.outcome, Outcome::kCutOff);
}

TEST_F(LoadGeneratorTest, AStopCancelsRunningAndWaitingRequests) {
  fake_.service.endless = true;
  fake_.service.refusals = 2;
  fake_.service.retry_after_ms = "50000";
  LoadPlan plan{.concurrency = 5, .duration_s = 60};
  plan.retry.max_retries = 1;
  std::stop_source stop;
  std::jthread stopper([&] {
    while (fake_.service.calls < 5) std::this_thread::sleep_for(1ms);
    std::this_thread::sleep_for(30ms);
    stop.request_stop();
  });
  const auto load = run(plan, {}, stop.get_token());
  EXPECT_TRUE(load.interrupted);
  ASSERT_EQ(load.records.size(), 5U);
  for (const auto& record : load.records) EXPECT_EQ(record.outcome, Outcome::kCutOff);
  EXPECT_LT(load.measure_to_s, 20) << "until the stop and not the 60 s that were planned";
}

TEST_F(LoadGeneratorTest, EveryTenantSendsItsShare) {
  const auto load = run({.concurrency = 8, .num_requests = 60}, {.tenants = {{"gold", 3}, {"free", 1}}});
  std::map<std::string, int> expected;
  for (const auto& record : load.records) ++expected[record.tenant == 0 ? "gold" : "free"];
  EXPECT_EQ(fake_.service.calls_by_tenant(), expected);
  EXPECT_GT(expected["gold"], expected["free"]);
}

}  // namespace
}  // namespace kvcrush::bench
