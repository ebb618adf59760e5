// Buffers that begin on a cache line: a row of an AMX tile or a vector of AVX-512 that lies across two lines
// takes two accesses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace kvcrush::cpu {

inline constexpr std::size_t kCacheLineBytes = 64;

template <typename T>
struct LineAllocator {
  using value_type = T;
  LineAllocator() = default;
  template <typename U>
  LineAllocator(const LineAllocator<U>&) {}  // NOLINT(google-explicit-constructor): as the standard wants it

  T* allocate(std::size_t count) {
    return static_cast<T*>(::operator new (count * sizeof(T), std::align_val_t{kCacheLineBytes}));
  }
  void deallocate(T* p, std::size_t) { ::operator delete (p, std::align_val_t{kCacheLineBytes}); }
  friend bool operator==(LineAllocator, LineAllocator) { return true; }
};

using AlignedFloats = std::vector<float, LineAllocator<float>>;
using AlignedBytes = std::vector<std::uint8_t, LineAllocator<std::uint8_t>>;

}  // namespace kvcrush::cpu
