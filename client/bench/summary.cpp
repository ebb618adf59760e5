#include "client/bench/summary.h"

#include <algorithm>
#include <cmath>

namespace kvcrush::bench {
namespace {

using Records = std::vector<const RequestRecord*>;

struct Window {
  double from_s;
  double to_s;

  bool holds(double at_s) const { return at_s >= from_s && at_s <= to_s; }
  double length_s() const { return to_s - from_s; }
  double per_s(double amount) const { return length_s() > 0 ? amount / length_s() : 0; }
};

Counts count(const Records& records) {
  Counts counts;
  for (const RequestRecord* record : records) {
    if (record->warmup) {
      ++counts.warmup;
      counts.warmup_generated_tokens += record->num_tokens();
      continue;
    }
    ++counts.measured;
    counts.retries += record->retries;
    counts.prompt_tokens += record->prompt_tokens;
    counts.generated_tokens += record->num_tokens();
    if (record->outcome == Outcome::kCutOff) {
      ++counts.cut_off;
      continue;
    }
    ++counts.by_code[record->code];
    ++(record->outcome == Outcome::kOk ? counts.ok : counts.failed);
  }
  return counts;
}

Throughput throughput(const Records& records, const Window& window) {
  std::int64_t requests = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t generated_tokens = 0;
  for (const RequestRecord* record : records) {
    for (const Arrival& arrival : record->arrivals)
      if (window.holds(arrival.at_s)) generated_tokens += arrival.num_tokens;
    if (record->outcome != Outcome::kOk || !window.holds(record->end_s)) continue;
    ++requests;
    prompt_tokens += record->prompt_tokens;
  }
  return {window.per_s(static_cast<double>(requests)), window.per_s(static_cast<double>(prompt_tokens)),
          window.per_s(static_cast<double>(generated_tokens))};
}

bool meets(const RequestRecord& record, const Slo& slo) {
  if (record.outcome != Outcome::kOk) return false;
  const auto within = [](const std::optional<double>& value, const std::optional<double>& limit) {
    return !limit || !value || *value <= *limit;
  };
  return within(record.ttft_ms(), slo.ttft_ms) && within(record.tpot_ms(), slo.itl_ms);
}

Goodput goodput(const Records& records, const Window& window, const Slo& slo, bool interrupted) {
  Goodput result;
  std::int64_t judged = 0;
  std::int64_t met_in_window = 0;
  for (const RequestRecord* record : records) {
    const bool met = meets(*record, slo);
    if (met && window.holds(record->end_s)) ++met_in_window;
    // Whoever interrupts a bench says nothing about the server; whoever waits in vain does.
    if (record->warmup || (interrupted && record->outcome == Outcome::kCutOff)) continue;
    ++judged;
    if (met) ++result.met;
  }
  result.share = judged > 0 ? static_cast<double>(result.met) / static_cast<double>(judged) : 0;
  result.requests_per_s = window.per_s(static_cast<double>(met_in_window));
  return result;
}

Latencies latencies(const Records& records) {
  std::vector<double> ttft, itl, tpot, e2e, server_queue, start_lag;
  const auto add = [](std::vector<double>& samples, const std::optional<double>& value) {
    if (value) samples.push_back(*value);
  };
  for (const RequestRecord* record : records) {
    if (record->warmup) continue;
    add(ttft, record->ttft_ms());
    start_lag.push_back((record->sent_s - record->due_s) * 1000);
    for (std::size_t i = 1; i < record->arrivals.size(); ++i)
      itl.push_back((record->arrivals[i].at_s - record->arrivals[i - 1].at_s) * 1000);
    if (record->outcome != Outcome::kOk) continue;
    add(tpot, record->tpot_ms());
    add(server_queue, record->server_queue_ms);
    e2e.push_back(record->e2e_ms());
  }
  return {describe(std::move(ttft)), describe(std::move(itl)),          describe(std::move(tpot)),
          describe(std::move(e2e)),  describe(std::move(server_queue)), describe(std::move(start_lag))};
}

std::vector<Second> seconds(const Records& records) {
  double last_s = 0;
  for (const RequestRecord* record : records) last_s = std::max(last_s, record->end_s);
  std::vector<Second> result(records.empty() ? 0 : static_cast<std::size_t>(last_s) + 1);
  const auto second_of = [&result](double at_s) -> Second& {
    return result[static_cast<std::size_t>(std::max(at_s, 0.0))];
  };
  for (const RequestRecord* record : records) {
    ++second_of(record->due_s).due;
    ++second_of(record->due_s).in_flight;
    --second_of(record->end_s).in_flight;
    if (record->outcome == Outcome::kOk) ++second_of(record->end_s).ok;
    if (record->outcome == Outcome::kFailed) ++second_of(record->end_s).failed;
    for (const Arrival& arrival : record->arrivals)
      second_of(arrival.at_s).generated_tokens += arrival.num_tokens;
  }
  for (std::size_t i = 1; i < result.size(); ++i) result[i].in_flight += result[i - 1].in_flight;
  return result;
}

}  // namespace

Summary summarise(const LoadResult& load, const Slo& slo, const std::vector<std::string>& tenants) {
  const Window window{load.measure_from_s, load.measure_to_s};
  Records all;
  std::vector<Records> by_tenant(tenants.size());
  for (const RequestRecord& record : load.records) {
    all.push_back(&record);
    if (!tenants.empty()) by_tenant[static_cast<std::size_t>(record.tenant)].push_back(&record);
  }
  Summary summary;
  summary.measured_s = window.length_s();
  summary.interrupted = load.interrupted;
  summary.counts = count(all);
  summary.throughput = throughput(all, window);
  if (slo.any()) summary.goodput = goodput(all, window, slo, load.interrupted);
  summary.latencies = latencies(all);
  summary.seconds = seconds(all);
  for (std::size_t i = 0; i < tenants.size(); ++i)
    summary.tenants.push_back(
        {tenants[i], count(by_tenant[i]), throughput(by_tenant[i], window), latencies(by_tenant[i])});
  return summary;
}

}  // namespace kvcrush::bench
