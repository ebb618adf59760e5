#include "engine/kvcrush/signature.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>

#include "engine/core/splitmix64.h"
#include "engine/core/status.h"

namespace kvcrush {
namespace {

constexpr int kWordBits = 64;

std::uint64_t mean_word(std::span<const std::uint64_t> plane, int num_bits, std::span<const int> evicted) {
  std::array<std::uint64_t, kWordBits> counts{};
  const auto num_counts = static_cast<std::size_t>(num_bits);
  for (const int unit : evicted) {
    const std::uint64_t word = plane[static_cast<std::size_t>(unit)];
    for (std::size_t bit = 0; bit < num_counts; ++bit) counts[bit] += (word >> bit) & 1U;
  }
  std::uint64_t anchor = 0;
  for (std::size_t bit = 0; bit < num_counts; ++bit) {
    if (2 * counts[bit] > evicted.size()) anchor |= std::uint64_t{1} << bit;
  }
  return anchor;
}

bool fixed_bit(const AnchorSpec& spec, int bit) {
  const auto index = static_cast<std::uint64_t>(spec.first_bit) + static_cast<std::uint64_t>(bit);
  switch (spec.kind) {
    case AnchorKind::kRandom:
      return (splitmix64(spec.seed + (static_cast<std::uint64_t>(spec.layer) << 32) + index) & 1U) != 0;
    case AnchorKind::kOnes:
      return true;
    case AnchorKind::kAlternating:
      return index % 2 == 1;
    case AnchorKind::kZeros:
    case AnchorKind::kMean:
      break;
  }
  return false;
}

}  // namespace

void SignatureTable::reset(int num_bits, int num_units) {
  KVCRUSH_CHECK(num_bits >= 1 && num_units >= 0);
  num_bits_ = num_bits;
  num_units_ = static_cast<std::size_t>(num_units);
  words_.assign(static_cast<std::size_t>(num_planes()) * num_units_, 0);
}

void SignatureTable::set_bit(int bit, std::span<const std::uint32_t> keys, const TopCut& cut) {
  KVCRUSH_CHECK(bit >= 0 && bit < num_bits_ && keys.size() == num_units_);
  std::uint64_t* const words = words_.data() + static_cast<std::size_t>(bit / kWordBits) * num_units_;
  const int shift = bit % kWordBits;
  const int num_units = static_cast<int>(num_units_);
  for (int unit = 0; unit < num_units; ++unit) {
    const std::uint64_t wanted = cut.takes(keys[static_cast<std::size_t>(unit)], unit) ? 1 : 0;
    words[unit] |= wanted << shift;
  }
}

void SignatureTable::set_members(std::span<const std::uint32_t> keys, const TopCut& cut) {
  const auto num_members = static_cast<std::size_t>(num_bits_);
  KVCRUSH_CHECK(num_bits_ <= kWordBits && keys.size() == num_units_ * num_members);
  for (std::size_t unit = 0; unit < num_units_; ++unit) {
    std::uint64_t word = 0;
    for (std::size_t member = 0; member < num_members; ++member) {
      const std::size_t index = unit * num_members + member;
      const std::uint64_t wanted = cut.takes(keys[index], static_cast<int>(index)) ? 1 : 0;
      word |= wanted << member;
    }
    words_[unit] |= word;
  }
}

std::span<const std::uint64_t> SignatureTable::plane(int index) const {
  return std::span(words_).subspan(static_cast<std::size_t>(index) * num_units_, num_units_);
}

void make_anchor(const AnchorSpec& spec, const SignatureTable& table, std::span<const int> evicted,
                 std::vector<std::uint64_t>& anchor) {
  anchor.assign(static_cast<std::size_t>(table.num_planes()), 0);
  for (int index = 0; index < table.num_planes(); ++index) {
    std::uint64_t& word = anchor[static_cast<std::size_t>(index)];
    const int first_bit = index * kWordBits;
    const int num_bits = std::min(kWordBits, table.num_bits() - first_bit);
    if (spec.kind == AnchorKind::kMean) {
      word = mean_word(table.plane(index), num_bits, evicted);
      continue;
    }
    for (int bit = 0; bit < num_bits; ++bit) {
      if (fixed_bit(spec, first_bit + bit)) word |= std::uint64_t{1} << bit;
    }
  }
}

void hamming_distances(const SignatureTable& table, std::span<const std::uint64_t> anchor,
                       std::span<const int> evicted, std::vector<int>& distances) {
  KVCRUSH_CHECK(anchor.size() == static_cast<std::size_t>(table.num_planes()));
  distances.assign(evicted.size(), 0);
  for (int index = 0; index < table.num_planes(); ++index) {
    const std::span<const std::uint64_t> plane = table.plane(index);
    const std::uint64_t anchor_word = anchor[static_cast<std::size_t>(index)];
    for (std::size_t i = 0; i < evicted.size(); ++i) {
      distances[i] += std::popcount(plane[static_cast<std::size_t>(evicted[i])] ^ anchor_word);
    }
  }
}

}  // namespace kvcrush
