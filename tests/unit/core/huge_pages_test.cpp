#include "engine/core/huge_pages.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace kvcrush {
namespace {

// Small pieces share a chunk, large ones get their own; none overlaps another.
TEST(HugePageMemory, PiecesAreApartAndAligned) {
  const auto memory = make_huge_page_memory();
  std::vector<std::pair<std::uint8_t*, std::size_t>> pieces;
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{100}, std::size_t{5} << 20, std::size_t{40} << 20, std::size_t{64}}) {
    pieces.emplace_back(static_cast<std::uint8_t*>(memory->allocate(size, 64)), size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pieces.back().first) % 64, 0u);
    std::memset(pieces.back().first, static_cast<int>(pieces.size()), size);
  }
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    EXPECT_EQ(pieces[i].first[0], i + 1);
    EXPECT_EQ(pieces[i].first[pieces[i].second - 1], i + 1);
  }
}

// Only whole huge pages can be asked for: what is around them, and what is smaller, stays as it was.
TEST(HugePages, AnyRangeMayBeNamed) {
  std::vector<std::uint8_t> bytes(std::size_t{7} << 20, 3);
  prefer_huge_pages(bytes.data() + 1, bytes.size() - 1);
  prefer_huge_pages(bytes.data() + 5, 10);
  prefer_huge_pages(bytes.data(), 0);
  EXPECT_EQ(bytes.front(), 3);
  EXPECT_EQ(bytes.back(), 3);
}

}  // namespace
}  // namespace kvcrush
