// Percentiles of samples, exact: each is one of the samples (nearest rank), so a maximum is one that
// occurred.
#pragma once

#include <cstdint>
#include <vector>

namespace kvcrush::bench {

// The smallest sample that at least `share` of all are not above; share in [0, 1], samples not empty.
// Reorders the samples.
double percentile(std::vector<double>& samples, double share);

struct Distribution {
  std::int64_t count = 0;  // 0: all the rest is 0
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p95 = 0;
  double p99 = 0;
  double max = 0;
  // percentile(i / (size - 1)) at i: the inverse of the cumulative distribution, for a plot. Empty without
  // samples.
  std::vector<double> quantiles;
};

Distribution describe(std::vector<double> samples);

}  // namespace kvcrush::bench
