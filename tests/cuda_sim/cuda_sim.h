// CUDA's names for a host compiler, so that the kernels of engine/kernels/cuda run on a CPU and are compared
// with the reference where there is no GPU (docs/adr/0008-cuda-simulator.md). Put before the source with
// -include. A block's threads are fibers; between two barriers they run one after the other in a shuffled
// order, so that a missing barrier shows. The simulator is stricter than a GPU where a GPU is undefined:
// lanes that are named in a mask must arrive, all threads must come to __syncthreads(), and shared memory and
// the targets of copies in flight read as NaN.
#pragma once
#define KVCRUSH_CUDA_SIM 1

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#include "tests/cuda_sim/recording.h"

#define __global__ [[maybe_unused]] static
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __shared__ static thread_local
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __restrict__ __restrict

struct uint2 {
  unsigned x, y;
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline uint2 make_uint2(unsigned x, unsigned y) {
  return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}

extern thread_local uint3 threadIdx;
extern thread_local uint3 blockIdx;
extern thread_local dim3 blockDim;
extern thread_local dim3 gridDim;

namespace kvcrush::cuda_sim {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffU;

// Runs `body` once per thread of every block. Throws std::logic_error where a barrier can never be passed.
void run(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes, const std::function<void()>& body);

std::byte* dynamic_shared();
unsigned lane();
enum class Collective { kSync, kShuffle, kVote, kMatch, kLoadMatrix, kMma };
// Waits for the lanes of `mask`. Words that a lane left before are readable by all of them afterwards.
void meet_warp(unsigned mask, Collective what);
void meet_block();
std::uint64_t* own_words();                    // [16], of the collective that comes next
const std::uint64_t* words_of(unsigned lane);  // after meet_warp
int block_sum(int value);                      // meets the block

// Copies that are in flight until waited for; their targets read as NaN until then.
// source null: zeros.
void copy_later(void* target, const void* source, std::size_t bytes);
void close_copy_group();
void wait_for_copies(int groups_still_in_flight);

template <class T>
T exchange(unsigned mask, T value, unsigned source_lane) {
  static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>);
  std::memcpy(own_words(), &value, sizeof(T));
  meet_warp(mask, Collective::kShuffle);
  T result;
  std::memcpy(&result, words_of(source_lane), sizeof(T));
  return result;
}

// With infinities and NaN, as the GPU has them.
float f16_to_float(std::uint16_t bits);
float bf16_to_float(std::uint16_t bits);
std::uint16_t float_to_f16(float x);  // to nearest, ties to even
std::uint16_t float_to_bf16(float x);

// 8x8 matrices of 16-bit elements, two registers' worth of rows and columns as ldmatrix hands them out.
void load_matrix(unsigned* registers, int count, const void* row, bool transpose);
// c += a b for one m16n8k16 tile; fragments as mma.sync has them.
void mma_16816(float* c, const unsigned* a, const unsigned* b, bool bf16);

}  // namespace kvcrush::cuda_sim

inline void __syncthreads() {
  kvcrush::cuda_sim::meet_block();
}
inline int __syncthreads_count(int predicate) {
  return kvcrush::cuda_sim::block_sum(predicate != 0 ? 1 : 0);
}
inline int __syncthreads_or(int predicate) {
  return __syncthreads_count(predicate) > 0 ? 1 : 0;
}
inline void __syncwarp(unsigned mask = kvcrush::cuda_sim::kAllLanes) {
  kvcrush::cuda_sim::meet_warp(mask, kvcrush::cuda_sim::Collective::kSync);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const auto lane = static_cast<int>(kvcrush::cuda_sim::lane());
  return kvcrush::cuda_sim::exchange(mask, value,
                                     static_cast<unsigned>(lane / width * width + (source & (width - 1))));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  const unsigned lane = kvcrush::cuda_sim::lane();
  const unsigned source = lane ^ static_cast<unsigned>(lane_mask);
  return kvcrush::cuda_sim::exchange(
      mask, value,
      source / static_cast<unsigned>(width) <= lane / static_cast<unsigned>(width) ? source : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = kvcrush::cuda_sim::lane();
  return kvcrush::cuda_sim::exchange(mask, value,
                                     lane % static_cast<unsigned>(width) >= delta ? lane - delta : lane);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = kvcrush::cuda_sim::lane();
  const auto w = static_cast<unsigned>(width);
  return kvcrush::cuda_sim::exchange(mask, value, lane % w + delta < w ? lane + delta : lane);
}
unsigned __ballot_sync(unsigned mask, int predicate);
unsigned __match_any_sync(unsigned mask, std::uint64_t value);
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate == 0 ? 1 : 0) == 0 ? 1 : 0;
}
int __reduce_add_sync(unsigned mask, int value);
unsigned __reduce_add_sync(unsigned mask, unsigned value);
int __reduce_max_sync(unsigned mask, int value);
unsigned __reduce_max_sync(unsigned mask, unsigned value);
int __reduce_min_sync(unsigned mask, int value);
inline unsigned __activemask() {
  return kvcrush::cuda_sim::kAllLanes;
}

namespace kvcrush::cuda_sim {

template <class T, class Update>
T fetch_and_update(T* address, const Update& update) {
  const T before = *address;
  *address = update(before);
  return before;
}

}  // namespace kvcrush::cuda_sim

template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return kvcrush::cuda_sim::fetch_and_update(address, [value](T before) { return before + value; });
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return kvcrush::cuda_sim::fetch_and_update(address, [value](T before) { return std::max(before, value); });
}
template <class T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return kvcrush::cuda_sim::fetch_and_update(address, [value](T before) { return std::min(before, value); });
}
template <class T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return kvcrush::cuda_sim::fetch_and_update(address, [value](T before) { return before | value; });
}
template <class T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return kvcrush::cuda_sim::fetch_and_update(address, [value](T) { return value; });
}
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return kvcrush::cuda_sim::fetch_and_update(
      address, [expected, value](T before) { return before == expected ? value : before; });
}

inline int __popc(unsigned x) {
  return std::popcount(x);
}
inline int __popcll(unsigned long long x) {
  return std::popcount(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __clz(int x) {
  return std::countl_zero(static_cast<unsigned>(x));
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const std::uint64_t bytes = low | static_cast<std::uint64_t>(high) << 32;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<unsigned>(bytes >> (8 * (selector >> (4 * i) & 7)) & 255) << (8 * i);
  return result;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<std::uint64_t>(a) * b) >> 32);
}
inline unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}
inline float __uint_as_float(unsigned x) {
  return std::bit_cast<float>(x);
}
inline int __float_as_int(float x) {
  return std::bit_cast<int>(x);
}
inline float __int_as_float(int x) {
  return std::bit_cast<float>(x);
}
template <class T>
T __ldg(const T* address) {
  return *address;
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float __logf(float x) {
  return std::log(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float rsqrtf(float x) {
  return 1.0F / std::sqrt(x);
}
// Never one operation with what is around them, also where a host compiler would fuse plain ones.
[[gnu::noinline]] inline float __fmul_rn(float a, float b) {
  return a * b;
}
[[gnu::noinline]] inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
