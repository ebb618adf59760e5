#include "client/bench/arrivals.h"

#include <cmath>

namespace kvcrush::bench {

double uniform(std::mt19937_64& random) {
  constexpr int kMantissaBits = 53;
  return std::ldexp(static_cast<double>(random() >> (64 - kMantissaBits)), -kMantissaBits);
}

double PoissonArrivals::next_s() {
  now_s_ -= std::log1p(-uniform(random_)) / rate_per_s_;  // gaps are exponential
  return now_s_;
}

}  // namespace kvcrush::bench
