// When requests of an open loop arrive: a Poisson process, so that they come independently of the server's
// answers.
#pragma once

#include <cstdint>
#include <random>

namespace kvcrush::bench {

// A uniform number in [0, 1) out of a generator's 64 bits. Unlike the standard library's distributions it is
// the same on every platform.
double uniform(std::mt19937_64& random);

class PoissonArrivals {
 public:
  PoissonArrivals(double rate_per_s, std::uint64_t seed) : rate_per_s_(rate_per_s), random_(seed) {}

  // Seconds since the start, growing; the first one is a gap after 0.
  double next_s();

 private:
  double rate_per_s_;
  std::mt19937_64 random_;
  double now_s_ = 0;
};

}  // namespace kvcrush::bench
