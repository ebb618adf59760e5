#include "engine/core/huge_pages.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

namespace kvcrush {

namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
constexpr std::size_t kFirstChunkBytes = std::size_t{32} << 20;  // pages that are never touched cost nothing

class HugePageChunks : public std::pmr::memory_resource {
  void* do_allocate(std::size_t size_bytes, std::size_t) override {
    const std::size_t rounded = (size_bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
    void* const chunk = std::aligned_alloc(kHugePageBytes, rounded);
    if (chunk == nullptr) throw std::bad_alloc();
    prefer_huge_pages(chunk, rounded);
    return chunk;
  }
  void do_deallocate(void* chunk, std::size_t, std::size_t) override { std::free(chunk); }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }
};

}  // namespace

void prefer_huge_pages(void* data, std::size_t size_bytes) {
  const auto first = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t begin = (first + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  const std::uintptr_t end = (first + size_bytes) / kHugePageBytes * kHugePageBytes;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

std::shared_ptr<std::pmr::memory_resource> make_huge_page_memory() {
  static HugePageChunks chunks;
  return std::make_shared<std::pmr::monotonic_buffer_resource>(kFirstChunkBytes, &chunks);
}

}  // namespace kvcrush
