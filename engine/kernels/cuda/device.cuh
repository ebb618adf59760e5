// What kernels need beyond plain CUDA: 16-bit floats, asynchronous copies and tensor cores, each once for
// nvcc and once for the simulator (tests/cuda_sim), which runs the same kernels on a CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math_constants.h>
#elif !defined(KVCRUSH_CUDA_SIM)
#error "for nvcc, or with tests/cuda_sim/cuda_sim.h"
#endif

namespace kvcrush::cuda {

inline constexpr int kWarpLanes = 32;
inline constexpr unsigned kAllLanes = 0xffffffffU;

// Storage of 16-bit floats; arithmetic is in float.
struct F16 {
  std::uint16_t bits;
};
struct BF16 {
  std::uint16_t bits;
};

#ifdef __CUDACC__

__device__ __forceinline__ float to_float(F16 x) {
  return __half2float(__ushort_as_half(x.bits));
}
__device__ __forceinline__ float to_float(BF16 x) {
  return __bfloat162float(__ushort_as_bfloat16(x.bits));
}
__device__ __forceinline__ void from_float(float x, F16& out) {
  out.bits = __half_as_ushort(__float2half_rn(x));
}
__device__ __forceinline__ void from_float(float x, BF16& out) {
  out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
__device__ __forceinline__ unsigned pack_f16(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}
// Two float16 numbers in a register.
__device__ __forceinline__ __half2 as_half2(unsigned x) {
  return *reinterpret_cast<const __half2*>(&x);
}
__device__ __forceinline__ unsigned as_bits(__half2 x) {
  return *reinterpret_cast<const unsigned*>(&x);
}
__device__ __forceinline__ unsigned f16x2_subtract(unsigned a, unsigned b) {
  return as_bits(__hsub2(as_half2(a), as_half2(b)));
}
__device__ __forceinline__ unsigned f16x2_fma(unsigned a, unsigned b, unsigned c) {
  return as_bits(__hfma2(as_half2(a), as_half2(b), as_half2(c)));
}

// Of a kernel that launch_early() started: lets the next one start as early, then waits until all before it
// are done and what they wrote is there. All kernels in a row do so, and each is done only after the one
// before.
__device__ __forceinline__ void wait_for_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// (x & mask) | bits as one instruction: the compiler makes two of it where both are constants.
__device__ __forceinline__ unsigned and_or(unsigned x, unsigned mask, unsigned bits) {
  unsigned y;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(x), "r"(mask), "r"(bits));
  return y;
}

// Of the launch, at least 128-byte aligned.
__device__ __forceinline__ std::byte* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char kvcrush_dynamic_shared[];
  return reinterpret_cast<std::byte*>(kvcrush_dynamic_shared);
}

__device__ __forceinline__ unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}
// 16 bytes from global to shared memory, or zeros where not `valid`; both addresses are multiples of 16.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most kInFlight of this thread's newest groups are under way. Other threads' need a barrier.
template <int kInFlight>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kInFlight) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane l names row l % 8 of matrix l / 8, 16-byte aligned.
__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// An 8x8 matrix of 16-bit elements, two of row lane / 4 in each lane, transposed.
__device__ __forceinline__ unsigned transpose_matrix(unsigned x) {
  unsigned y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}
// c [16, 8] += a [16, 16] b [16, 8] in float16, sums in float.
__device__ __forceinline__ void mma_f16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
      "%1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, "
      "%1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float minus_infinity() {
  return -CUDART_INF_F;
}

#else  // the simulator

inline float to_float(F16 x) {
  return cuda_sim::f16_to_float(x.bits);
}
inline float to_float(BF16 x) {
  return cuda_sim::bf16_to_float(x.bits);
}
inline void from_float(float x, F16& out) {
  out.bits = cuda_sim::float_to_f16(x);
}
inline void from_float(float x, BF16& out) {
  out.bits = cuda_sim::float_to_bf16(x);
}
inline unsigned pack_f16(float low, float high) {
  return cuda_sim::float_to_f16(low) | static_cast<unsigned>(cuda_sim::float_to_f16(high)) << 16;
}
template <class Operation>
unsigned f16x2_apply(const Operation& operation) {
  return pack_f16(operation(0), operation(16));
}
inline float f16_half(unsigned pair, int shift) {
  return cuda_sim::f16_to_float(static_cast<std::uint16_t>(pair >> shift));
}
inline unsigned f16x2_subtract(unsigned a, unsigned b) {
  return f16x2_apply([&](int s) { return f16_half(a, s) - f16_half(b, s); });
}
inline unsigned f16x2_fma(unsigned a, unsigned b, unsigned c) {
  return f16x2_apply([&](int s) { return f16_half(a, s) * f16_half(b, s) + f16_half(c, s); });
}
inline void wait_for_earlier_kernels() {}
inline unsigned and_or(unsigned x, unsigned mask, unsigned bits) {
  return (x & mask) | bits;
}
inline std::byte* dynamic_shared() {
  return cuda_sim::dynamic_shared();
}
inline void copy_async_16(void* shared, const void* global, bool valid) {
  cuda_sim::copy_later(shared, valid ? global : nullptr, 16);
}
inline void commit_copies() {
  cuda_sim::close_copy_group();
}
template <int kInFlight>
void wait_for_copies() {
  cuda_sim::wait_for_copies(kInFlight);
}
inline void load_matrices(unsigned (&r)[4], const void* row) {
  cuda_sim::load_matrix(r, 4, row, false);
}
inline void load_matrices_transposed(unsigned (&r)[4], const void* row) {
  cuda_sim::load_matrix(r, 4, row, true);
}
inline unsigned transpose_matrix(unsigned x) {
  const auto lane = static_cast<int>(cuda_sim::lane());
  unsigned y = 0;
  for (int i = 0; i < 2; ++i) {
    const unsigned row = __shfl_sync(kAllLanes, x, (lane % 4 * 2 + i) * 4 + lane / 4 / 2);
    y |= (row >> (lane / 4 % 2 * 16) & 0xffffU) << (16 * i);
  }
  return y;
}
inline void mma_f16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const unsigned b[2] = {b0, b1};
  cuda_sim::mma_16816(c, a, b, false);
}
inline void mma_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const unsigned b[2] = {b0, b1};
  cuda_sim::mma_16816(c, a, b, true);
}
inline float exp2_fast(float x) {
  return std::exp2(x);
}
inline float minus_infinity() {
  return -HUGE_VALF;
}

#endif

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ void from_float(float x, float& out) {
  out = x;
}

__device__ __forceinline__ float warp_sum(float x) {
  for (int offset = kWarpLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
  for (int offset = kWarpLanes / 2; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, x, offset);
    x = other > x ? other : x;
  }
  return x;
}

}  // namespace kvcrush::cuda
