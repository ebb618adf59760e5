#include "client/bench/percentiles.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace kvcrush::bench {
namespace {

constexpr int kNumQuantiles = 201;  // steps of half a percent

std::size_t nearest_rank(std::size_t count, double share) {
  // 0.07 * 100 is a bit above 7: without the margin it would be rank 8.
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(count) - 1e-9));
  return std::clamp<std::size_t>(rank, 1, count) - 1;
}

}  // namespace

double percentile(std::vector<double>& samples, double share) {
  const auto at = samples.begin() + static_cast<std::ptrdiff_t>(nearest_rank(samples.size(), share));
  std::nth_element(samples.begin(), at, samples.end());
  return *at;
}

Distribution describe(std::vector<double> samples) {
  Distribution result;
  if (samples.empty()) return result;
  std::sort(samples.begin(),
            samples.end());  // so many percentiles are wanted that selecting each would cost more
  const auto at = [&samples](double share) { return samples[nearest_rank(samples.size(), share)]; };
  result.count = static_cast<std::int64_t>(samples.size());
  result.mean = std::accumulate(samples.begin(), samples.end(), 0.0) / static_cast<double>(samples.size());
  result.p50 = at(0.5);
  result.p90 = at(0.9);
  result.p95 = at(0.95);
  result.p99 = at(0.99);
  result.max = samples.back();
  for (int i = 0; i < kNumQuantiles; ++i)
    result.quantiles.push_back(at(static_cast<double>(i) / (kNumQuantiles - 1)));
  return result;
}

}  // namespace kvcrush::bench
