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
  for (const int token : evicted) {
    const std::uint64_t word = plane[static_cast<std::size_t>(token)];
    for (std::size_t bit = 0; bit < num_counts; ++bit) counts[bit] += (word >> bit) & 1U;
  }
  std::uint64_t anchor = 0;
  for (std::size_t bit = 0; bit < num_counts; ++bit) {
    if (2 * counts[bit] > evicted.size()) anchor |= std::uint64_t{1} << bit;
  }
  return anchor;
}

bool fixed_bit(const AnchorSpec& spec, int row) {
  const auto head = static_cast<std::uint64_t>(spec.first_head) + static_cast<std::uint64_t>(row);
  switch (spec.kind) {
    case AnchorKind::kRandom:
      return (splitmix64(spec.seed + (static_cast<std::uint64_t>(spec.layer) << 32) + head) & 1U) != 0;
    case AnchorKind::kOnes:
      return true;
    case AnchorKind::kAlternating:
      return head % 2 == 1;
    case AnchorKind::kZeros:
    case AnchorKind::kMean:
      break;
  }
  return false;
}

}  // namespace

void SignatureTable::reset(int num_heads, int num_tokens) {
  KVCRUSH_CHECK(num_heads >= 1 && num_tokens >= 0);
  num_heads_ = num_heads;
  num_tokens_ = static_cast<std::size_t>(num_tokens);
  words_.assign(static_cast<std::size_t>(num_planes()) * num_tokens_, 0);
}

void SignatureTable::set_head(int head, std::span<const std::uint32_t> keys, const TopCut& cut) {
  KVCRUSH_CHECK(head >= 0 && head < num_heads_ && keys.size() == num_tokens_);
  std::uint64_t* const words = words_.data() + static_cast<std::size_t>(head / kWordBits) * num_tokens_;
  const int shift = head % kWordBits;
  const int num_tokens = static_cast<int>(num_tokens_);
  for (int token = 0; token < num_tokens; ++token) {
    const std::uint64_t wanted = cut.takes(keys[static_cast<std::size_t>(token)], token) ? 1 : 0;
    words[token] |= wanted << shift;
  }
}

std::span<const std::uint64_t> SignatureTable::plane(int index) const {
  return std::span(words_).subspan(static_cast<std::size_t>(index) * num_tokens_, num_tokens_);
}

void make_anchor(const AnchorSpec& spec, const SignatureTable& table, std::span<const int> evicted,
                 std::vector<std::uint64_t>& anchor) {
  anchor.assign(static_cast<std::size_t>(table.num_planes()), 0);
  for (int index = 0; index < table.num_planes(); ++index) {
    std::uint64_t& word = anchor[static_cast<std::size_t>(index)];
    const int first_row = index * kWordBits;
    const int num_bits = std::min(kWordBits, table.num_heads() - first_row);
    if (spec.kind == AnchorKind::kMean) {
      word = mean_word(table.plane(index), num_bits, evicted);
      continue;
    }
    for (int bit = 0; bit < num_bits; ++bit) {
      if (fixed_bit(spec, first_row + bit)) word |= std::uint64_t{1} << bit;
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
