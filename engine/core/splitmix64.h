// splitmix64: one step of the generator from state `state`, used as a hash. Every use in the engine is a pure
// function of its inputs, so the same seed gives the same result whatever else runs.
#pragma once

#include <cstdint>

namespace kvcrush {

constexpr std::uint64_t splitmix64(std::uint64_t state) {
  std::uint64_t z = state + 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

}  // namespace kvcrush
