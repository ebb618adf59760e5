// Arrivals, percentiles and the summary of hand-made records.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "client/bench/arrivals.h"
#include "client/bench/bench_report.h"
#include "client/bench/percentiles.h"
#include "client/bench/summary.h"

namespace kvcrush::bench {
namespace {

TEST(PoissonArrivals, HaveTheRateAndTheSpreadOfAPoissonProcess) {
  constexpr int kCount = 40000;
  constexpr double kRate = 20;
  PoissonArrivals arrivals(kRate, 7);
  double before_s = 0;
  double sum = 0;
  double sum_of_squares = 0;
  int longer_than_mean = 0;
  for (int i = 0; i < kCount; ++i) {
    const double now_s = arrivals.next_s();
    const double gap_s = now_s - before_s;
    ASSERT_GE(gap_s, 0);
    sum += gap_s;
    sum_of_squares += gap_s * gap_s;
    longer_than_mean += gap_s > 1 / kRate ? 1 : 0;
    before_s = now_s;
  }
  const double mean = sum / kCount;
  const double deviation = std::sqrt(sum_of_squares / kCount - mean * mean);
  // The standard error of the mean is mean / sqrt(40000) = 0.5 %; four of them.
  EXPECT_NEAR(mean, 1 / kRate, 0.02 / kRate);
  EXPECT_NEAR(deviation, 1 / kRate, 0.04 / kRate) << "of an exponential, the deviation is the mean";
  EXPECT_NEAR(static_cast<double>(longer_than_mean) / kCount, std::exp(-1), 0.01);
}

TEST(PoissonArrivals, AreTheSameForTheSameSeed) {
  PoissonArrivals first(3, 1);
  PoissonArrivals same(3, 1);
  PoissonArrivals other(3, 2);
  int equal = 0;
  for (int i = 0; i < 100; ++i) {
    const double at_s = first.next_s();
    EXPECT_EQ(at_s, same.next_s());
    equal += at_s == other.next_s() ? 1 : 0;
  }
  EXPECT_EQ(equal, 0);
}

// The definition, by counting.
double brute_force_percentile(const std::vector<double>& samples, int percent) {
  double best = *std::max_element(samples.begin(), samples.end());
  for (const double candidate : samples) {
    const auto not_above =
        std::count_if(samples.begin(), samples.end(), [=](double s) { return s <= candidate; });
    if (100 * not_above >= static_cast<std::ptrdiff_t>(samples.size()) * percent)
      best = std::min(best, candidate);
  }
  return best;
}

TEST(Percentiles, AreThoseOfTheDefinition) {
  std::mt19937_64 random(3);
  for (const std::size_t count : {1U, 2U, 3U, 10U, 99U, 100U, 101U, 250U}) {
    std::vector<double> samples;
    for (std::size_t i = 0; i < count; ++i) samples.push_back(std::floor(uniform(random) * 60));
    for (int percent = 1; percent <= 100; ++percent) {
      auto copy = samples;
      EXPECT_EQ(percentile(copy, percent / 100.0), brute_force_percentile(samples, percent))
          << "p" << percent << " of " << count;
    }
    const Distribution d = describe(samples);
    EXPECT_EQ(d.count, static_cast<std::int64_t>(count));
    EXPECT_EQ(d.p50, brute_force_percentile(samples, 50));
    EXPECT_EQ(d.p90, brute_force_percentile(samples, 90));
    EXPECT_EQ(d.p95, brute_force_percentile(samples, 95));
    EXPECT_EQ(d.p99, brute_force_percentile(samples, 99));
    EXPECT_EQ(d.max, brute_force_percentile(samples, 100));
    EXPECT_EQ(d.quantiles.at(100), d.p50) << "every half percent";
    EXPECT_EQ(d.quantiles.back(), d.max);
    EXPECT_EQ(d.quantiles.front(), *std::min_element(samples.begin(), samples.end()));
  }
  EXPECT_EQ(describe(std::vector<double>{}).count, 0);
  EXPECT_DOUBLE_EQ(describe(std::vector<double>{1, 2, 6}).mean, 3);
}

// A request due at `due_s` whose tokens arrive at the given times, one each.
RequestRecord record_of(double due_s, const std::vector<double>& token_times_s, double end_s) {
  RequestRecord record;
  record.due_s = due_s;
  record.sent_s = due_s + 0.001;
  for (const double at_s : token_times_s) record.arrivals.push_back({at_s, 1});
  record.end_s = end_s;
  record.prompt_tokens = 10;
  record.server_queue_ms = 5;
  return record;
}

LoadResult three_requests() {
  LoadResult load;
  load.measure_from_s = 1;
  load.measure_to_s = 5;
  auto warmup = record_of(0.5, {0.6, 1.5}, 1.5);
  warmup.warmup = true;
  auto late = record_of(2, {3, 3.1}, 3.1);
  auto failed = record_of(3, {}, 4.2);
  failed.outcome = Outcome::kFailed;
  failed.code = client::Code::kResourceExhausted;
  failed.retries = 2;
  failed.prompt_tokens = 0;
  failed.server_queue_ms.reset();
  auto after = record_of(4.5, {4.6, 4.9, 5.3}, 5.3);
  after.tenant = 1;
  load.records = {warmup, late, failed, after};
  return load;
}

TEST(Summary, CountsMeasuredRequestsByStatus) {
  const Summary summary = summarise(three_requests(), {});
  EXPECT_EQ(summary.counts.measured, 3);
  EXPECT_EQ(summary.counts.ok, 2);
  EXPECT_EQ(summary.counts.failed, 1);
  EXPECT_EQ(summary.counts.retries, 2);
  EXPECT_EQ(summary.counts.warmup, 1);
  EXPECT_EQ(summary.counts.warmup_generated_tokens, 2);
  EXPECT_EQ(summary.counts.by_code, (std::map<client::Code, std::int64_t>{
                                        {client::Code::kOk, 2}, {client::Code::kResourceExhausted, 1}}));
  EXPECT_EQ(summary.counts.generated_tokens, 5);
  EXPECT_EQ(summary.counts.prompt_tokens, 20);
  EXPECT_FALSE(summary.goodput.has_value());
}

TEST(Summary, RatesAreOfWhatHappenedWithinTheMeasuredTime) {
  const Summary summary = summarise(three_requests(), {});
  EXPECT_DOUBLE_EQ(summary.measured_s, 4);
  EXPECT_DOUBLE_EQ(summary.throughput.requests_per_s, 2.0 / 4)
      << "the warm-up's ended inside, the last one outside";
  EXPECT_DOUBLE_EQ(summary.throughput.generated_tokens_per_s, 5.0 / 4) << "1.5, 3, 3.1, 4.6, 4.9";
  EXPECT_DOUBLE_EQ(summary.throughput.prompt_tokens_per_s, 20.0 / 4);
}

TEST(Summary, LatenciesCountFromWhenARequestWasDue) {
  const Latencies latencies = summarise(three_requests(), {}).latencies;
  EXPECT_EQ(latencies.ttft.count, 2);
  EXPECT_NEAR(latencies.ttft.max, 1000, 1e-9);
  EXPECT_NEAR(latencies.ttft.p50, 100, 1e-9);
  EXPECT_EQ(latencies.itl.count, 3);
  EXPECT_NEAR(latencies.itl.max, 400, 1e-9);
  EXPECT_NEAR(latencies.tpot.max, 350, 1e-9);
  EXPECT_NEAR(latencies.e2e.max, 1100, 1e-9);
  EXPECT_EQ(latencies.server_queue.count, 2);
  EXPECT_NEAR(latencies.start_lag.p50, 1, 1e-9);
  EXPECT_EQ(latencies.start_lag.count, 3) << "failed ones were sent as well";
}

TEST(Summary, ChunksOfSeveralTokensCountAsOneWaitAndAllTheirTokens) {
  LoadResult load;
  load.measure_to_s = 10;
  auto record = record_of(0, {}, 2);
  record.arrivals = {{1, 1}, {1.6, 3}};
  load.records = {record};
  const Summary summary = summarise(load, {});
  EXPECT_EQ(summary.counts.generated_tokens, 4);
  EXPECT_EQ(summary.latencies.itl.count, 1);
  EXPECT_NEAR(summary.latencies.itl.max, 600, 1e-9);
  EXPECT_NEAR(summary.latencies.tpot.max, 200, 1e-9);
}

TEST(Goodput, CountsRequestsThatKeepBothLimits) {
  const auto share = [](const Slo& slo) { return summarise(three_requests(), slo).goodput->share; };
  EXPECT_DOUBLE_EQ(share({.ttft_ms = 2000, .itl_ms = 1000}), 2.0 / 3) << "the failed one is not good";
  EXPECT_DOUBLE_EQ(share({.ttft_ms = 500, .itl_ms = 1000}), 1.0 / 3);
  EXPECT_DOUBLE_EQ(share({.ttft_ms = 2000, .itl_ms = 200}), 1.0 / 3);
  EXPECT_DOUBLE_EQ(share({.ttft_ms = 500, .itl_ms = 200}), 0) << "each keeps only one of them";
  EXPECT_DOUBLE_EQ(share({.ttft_ms = {}, .itl_ms = 350.001}), 2.0 / 3);
  const auto goodput = *summarise(three_requests(), {.ttft_ms = 2000}).goodput;
  EXPECT_EQ(goodput.met, 2);
  EXPECT_DOUBLE_EQ(goodput.requests_per_s, 2.0 / 4) << "as the throughput: what ended meanwhile";
}

TEST(Goodput, WhatTheBenchCutsOffIsNotGoodUnlessItWasInterrupted) {
  auto load = three_requests();
  load.records.back().outcome = Outcome::kCutOff;
  load.records.back().code = client::Code::kCancelled;
  EXPECT_DOUBLE_EQ(summarise(load, {.ttft_ms = 2000}).goodput->share, 1.0 / 3);
  EXPECT_EQ(summarise(load, {}).counts.cut_off, 1);
  EXPECT_EQ(summarise(load, {}).counts.by_code.count(client::Code::kCancelled), 0U);
  load.interrupted = true;
  EXPECT_DOUBLE_EQ(summarise(load, {.ttft_ms = 2000}).goodput->share, 1.0 / 2);
}

TEST(Summary, SecondsTellWhatWasDueEndedAndInFlight) {
  const auto seconds = summarise(three_requests(), {}).seconds;
  ASSERT_EQ(seconds.size(), 6U);
  std::vector<std::int64_t> due, ok, failed, tokens, in_flight;
  for (const Second& second : seconds) {
    due.push_back(second.due);
    ok.push_back(second.ok);
    failed.push_back(second.failed);
    tokens.push_back(second.generated_tokens);
    in_flight.push_back(second.in_flight);
  }
  using V = std::vector<std::int64_t>;
  EXPECT_EQ(due, (V{1, 0, 1, 1, 1, 0}));
  EXPECT_EQ(ok, (V{0, 1, 0, 1, 0, 1}));
  EXPECT_EQ(failed, (V{0, 0, 0, 0, 1, 0}));
  EXPECT_EQ(tokens, (V{1, 1, 0, 2, 2, 1}));
  EXPECT_EQ(in_flight, (V{1, 0, 1, 1, 1, 0}));
}

TEST(Summary, TenantsAreToldApart) {
  const auto tenants = summarise(three_requests(), {}, {"gold", "free"}).tenants;
  ASSERT_EQ(tenants.size(), 2U);
  EXPECT_EQ(tenants[0].name, "gold");
  EXPECT_EQ(tenants[0].counts.measured, 2);
  EXPECT_EQ(tenants[1].counts.ok, 1);
  EXPECT_NEAR(tenants[1].latencies.ttft.p50, 100, 1e-9);
}

TEST(Summary, OfNothing) {
  const Summary summary = summarise({}, {.ttft_ms = 1});
  EXPECT_EQ(summary.counts.measured, 0);
  EXPECT_EQ(summary.throughput.requests_per_s, 0);
  EXPECT_TRUE(summary.seconds.empty());
  std::ostringstream out;
  print_report(out, {}, summary);
  EXPECT_NE(out.str().find("0 requests/s"), std::string::npos) << out.str();
}

BenchSetting a_setting() {
  BenchSetting setting;
  setting.plan.rate_per_s = 2;
  setting.slo.ttft_ms = 500;
  setting.workload.tenants = {{"gold", 3}, {"free", 1}};
  setting.model.set_model_name("tiny");
  return setting;
}

TEST(BenchJson, HasEveryFigure) {
  const auto setting = a_setting();
  const auto json = to_json(setting, summarise(three_requests(), setting.slo, {"gold", "free"}));
  EXPECT_EQ(json.at("format"), "kvcrush-bench-1");
  EXPECT_EQ(json.at("server").at("model"), "tiny");
  EXPECT_EQ(json.at("load").at("rate_per_s"), 2);
  EXPECT_TRUE(json.at("load").at("concurrency").is_null());
  EXPECT_EQ(json.at("workload").at("prompt_tokens"), nlohmann::json::array({256, 256}));
  EXPECT_EQ(json.at("counts").at("by_code"), (nlohmann::json{{"OK", 2}, {"RESOURCE_EXHAUSTED", 1}}));
  EXPECT_EQ(json.at("goodput").at("met"), 1);
  EXPECT_TRUE(json.at("slo").at("itl_ms").is_null());
  EXPECT_EQ(json.at("seconds").at("in_flight"), nlohmann::json::array({1, 0, 1, 1, 1, 0}));
  for (const char* name : {"ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "server_queue_ms", "start_lag_ms"})
    for (const char* figure : {"count", "mean", "p50", "p90", "p95", "p99", "max"})
      EXPECT_TRUE(json.at("latency").at(name).at(figure).is_number()) << name << ' ' << figure;
  EXPECT_EQ(json.at("latency").at("ttft_ms").at("quantiles").size(), 201U);
  EXPECT_EQ(json.at("tenants").at("free").at("counts").at("ok"), 1);
  EXPECT_FALSE(json.dump().empty());
}

TEST(BenchReport, TellsStatusesRatesAndPercentiles) {
  const auto setting = a_setting();
  std::ostringstream out;
  print_report(out, setting, summarise(three_requests(), setting.slo, {"gold", "free"}));
  for (const char* words :
       {"open loop, 2.00 requests/s", "RESOURCE_EXHAUSTED", "2 retries", "0.250 requests/s, 33.3 %",
        "1.25 generated tokens/s", "33.3 %", "TTFT <= 500.0 ms", "TTFT", "p99", "gold", "free"})
    EXPECT_NE(out.str().find(words), std::string::npos) << words << " in\n" << out.str();
}

}  // namespace
}  // namespace kvcrush::bench
