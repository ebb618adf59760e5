#include "engine/kvcrush/top_selection.h"

#include <array>
#include <bit>
#include <cstddef>
#include <limits>

#include "engine/core/status.h"

namespace kvcrush {
namespace {

constexpr int kNumBins = 1 << 11;

struct Digit {
  int shift;
  std::uint32_t mask;
  std::uint32_t of(std::uint32_t key) const { return (key >> shift) & mask; }
};
constexpr std::array<Digit, 3> kDigits = {{{21, kNumBins - 1}, {10, kNumBins - 1}, {0, kNumBins / 2 - 1}}};

using Histogram = std::array<int, kNumBins>;

// Positive floats gain the top bit, negative ones are turned around below them.
std::uint32_t order_key(float value) {
  const auto bits = std::bit_cast<std::int32_t>(value + 0.0f);  // the sum turns -0 into +0
  return static_cast<std::uint32_t>(bits) ^ (static_cast<std::uint32_t>(bits >> 31) | 0x80000000U);
}

Histogram count_digits(std::span<const std::uint32_t> keys, Digit digit) {
  Histogram histogram{};
  for (const std::uint32_t key : keys) ++histogram[digit.of(key)];
  return histogram;
}

// The bin that holds the key of rank `remaining` counted from the largest; `remaining` becomes its rank in
// that bin.
std::uint32_t find_bin(const Histogram& histogram, int& remaining) {
  std::uint32_t bin = kNumBins - 1;
  while (histogram[bin] < remaining) remaining -= histogram[bin--];
  return bin;
}

// Moves the keys of one bin to the front of `out`, which may be where `keys` lie; returns how many they are.
std::size_t keep_bin(std::span<const std::uint32_t> keys, Digit digit, std::uint32_t bin,
                     std::span<std::uint32_t> out) {
  std::size_t num_kept = 0;
  for (const std::uint32_t key : keys) {
    out[num_kept] = key;
    num_kept += digit.of(key) == bin ? 1 : 0;
  }
  return num_kept;
}

int index_of_tie(std::span<const std::uint32_t> keys, std::uint32_t key, int rank) {
  int index = -1;
  while (rank > 0) rank -= keys[static_cast<std::size_t>(++index)] == key ? 1 : 0;
  return index;
}

}  // namespace

TopCut TopSelection::find(std::span<const float> values, int count) {
  const int num_values = static_cast<int>(values.size());
  KVCRUSH_CHECK(count >= 0 && count <= num_values);
  keys_.resize(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) keys_[i] = order_key(values[i]);
  if (count == 0) return {std::numeric_limits<std::uint32_t>::max(), -1};

  members_.resize(values.size());
  std::span<const std::uint32_t> members = keys_;  // keys that share the digits of `prefix`
  std::uint32_t prefix = 0;
  int remaining = count;
  for (const Digit digit : kDigits) {
    const Histogram histogram = count_digits(members, digit);
    const std::uint32_t bin = find_bin(histogram, remaining);
    prefix |= bin << digit.shift;
    // The whole bin is taken: its lowest possible key is the cut, whatever the digits below say.
    if (histogram[bin] == remaining) return {prefix, num_values};
    members = std::span(members_).first(keep_bin(members, digit, bin, members_));
  }
  return {prefix, index_of_tie(keys_, prefix, remaining)};
}

}  // namespace kvcrush
