// What the Hopper prefill kernel takes of the hardware: barriers in shared memory, registers that move
// between warpgroups, and warpgroup matrix multiplication (wgmma) with the shared-memory layouts it reads.
//
// A wgmma operand in shared memory is made of swizzled atoms: 8 rows of 32, 64 or 128 bytes, in which the
// 16-byte piece p of row r lies at place p xor r (mod 8; for 32 bytes, p xor bit 2 of r). A descriptor names
// the first atom and the distances to the next ones. Q is "K-major", its rows run along head_dim, the
// dimension summed over; K and V are "MN-major": K's rows run along tokens, as the pool's tiles do, and V's
// along head_dim.
#pragma once

#include "engine/kernels/cuda/device.cuh"

namespace kvcrush::cuda {

inline constexpr int kWarpgroup = 128;
inline constexpr int kGroupRows = 64;  // rows of one wgmma

// ---- barriers ----

// By addresses in shared memory, as all that loops of the kernel work on.
__device__ __forceinline__ void barrier_init(unsigned barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Until the barrier's phase of this parity is complete.
__device__ __forceinline__ void barrier_wait(unsigned barrier, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// Named barriers of the block; 0 is __syncthreads'.
__device__ __forceinline__ void named_sync(int name, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_arrive(int name, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(name), "r"(threads) : "memory");
}
// What this thread wrote to shared memory becomes visible to wgmma of whoever it signals afterwards.
__device__ __forceinline__ void fence_for_wgmma() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
template <int kRegisters>
__device__ __forceinline__ void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// This thread's number below `count`, a power of two. Read anew each time, lest addresses that follow from it
// be kept in registers all along.
template <int kCount>
__device__ __forceinline__ int thread_below() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread & (kCount - 1);
}

// ---- operands in shared memory ----

enum class Swizzle : int { k128 = 1, k32 = 3 };  // as descriptors encode it

// `leading` and `stride`: bytes between atoms, across and along the dimension summed over for MN-major
// operands.
__device__ __forceinline__ std::uint64_t operand_descriptor(unsigned shared, int leading, int stride,
                                                            Swizzle swizzle) {
  return static_cast<std::uint64_t>(shared >> 4) | static_cast<std::uint64_t>(leading >> 4) << 16 |
         static_cast<std::uint64_t>(stride >> 4) << 32 | static_cast<std::uint64_t>(swizzle) << 62;
}
// The operand `bytes` further on.
__device__ __forceinline__ std::uint64_t advanced(std::uint64_t descriptor, int bytes) {
  return descriptor + static_cast<std::uint64_t>(bytes >> 4);
}

// 64 rows of queries: columns of 64 channels, each 64 rows of 128 bytes. `piece`: 8 channels.
template <int kHeadDim>
struct QueryLayout {
  static constexpr int kBytes = kGroupRows * kHeadDim * 2;
  __device__ __forceinline__ static int offset(int row, int piece) {
    return piece / 8 * (kGroupRows * 128) + row * 128 + ((piece ^ row) & 7) * 16;
  }
  __device__ __forceinline__ static std::uint64_t descriptor(unsigned shared) {
    return operand_descriptor(shared, 16, 1024, Swizzle::k128);
  }
  // To channels 16 * step and after.
  static constexpr int step_bytes(int step) { return step / 4 * (kGroupRows * 128) + step % 4 * 32; }
};

// kTokens tokens' K. With 32-byte rows a pool tile keeps its order but for the swizzle; with 128-byte rows
// four tiles lie side by side.
template <int kHeadDim, int kTokens, Swizzle kSwizzle>
struct KeyLayout {
  static constexpr bool kNarrow = kSwizzle == Swizzle::k32;
  static_assert(kTokens % (kNarrow ? 16 : 64) == 0);
  static constexpr int kBytes = kTokens * kHeadDim * 2;
  static constexpr int kRowBytes =
      kNarrow ? 32 : 128;  // from a channel to the next; the swizzle repeats after 8
  // Of the 8 tokens `half` of tile `tile`, channel d.
  __device__ __forceinline__ static int offset(int tile, int d, int half) {
    if constexpr (kNarrow) return tile * (kHeadDim * 32) + d * 32 + (half ^ (d >> 2 & 1)) * 16;
    return tile / 4 * (kHeadDim * 128) + d * 128 + ((tile % 4 * 2 + half) ^ (d & 7)) * 16;
  }
  static constexpr int kLeading = kHeadDim * (kNarrow ? 32 : 128);
  static constexpr int kStride = kNarrow ? 256 : 1024;
  __device__ __forceinline__ static std::uint64_t descriptor(unsigned shared) {
    return operand_descriptor(shared, kLeading, kStride, kSwizzle);
  }
  static constexpr int step_bytes(int step) { return step * 16 * (kNarrow ? 32 : 128); }  // 16 channels
};

// kTokens tokens' V, tile by tile: columns of 64 channels, each 16 tokens of 128 bytes.
template <int kHeadDim>
struct ValueLayout {
  static constexpr int kTileBytes = 16 * kHeadDim * 2;
  // Of 8 channels `piece` of token `token` of tile `tile`.
  __device__ __forceinline__ static int offset(int tile, int token, int piece) {
    return tile * kTileBytes + piece / 8 * 2048 + token * 128 + ((piece ^ token) & 7) * 16;
  }
  static constexpr int kLeading = 2048;
  static constexpr int kStride = 1024;
  __device__ __forceinline__ static std::uint64_t descriptor(unsigned shared) {
    return operand_descriptor(shared, kLeading, kStride, Swizzle::k128);
  }
};

// ---- wgmma ----

// Registers written before are ready for wgmma.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kInFlight of the newest groups are under way.
template <int kInFlight>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kInFlight) : "memory");
}
// wgmma writes its registers after the instruction: what reads them must not move up past the wait for it.
template <int kCount>
__device__ __forceinline__ void hold(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i]));
}
template <int kSteps>
__device__ __forceinline__ void hold(unsigned (&registers)[kSteps][4]) {
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    for (int j = 0; j < 4; ++j) asm volatile("" : "+r"(registers[i][j]));
  }
}

// Names of accumulators in instructions, and as operands of asm.
#define KVC_NAMES_0                                                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21" \
  ", %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define KVC_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define KVC_NAMES_40                                                                                     \
  ", %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59" \
  ", %60, %61, %62, %63"
#define KVC_NAMES_64                                                                                     \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83" \
  ", %84, %85, %86, %87"
#define KVC_NAMES_88                                                                                 \
  ", %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105" \
  ", %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121" \
  ", %122, %123, %124, %125, %126, %127"
#define KVC_8(how, d, i)                                                                               \
  how(d[i]), how(d[i + 1]), how(d[i + 2]), how(d[i + 3]), how(d[i + 4]), how(d[i + 5]), how(d[i + 6]), \
      how(d[i + 7])
#define KVC_24(how, d, i) KVC_8(how, d, i), KVC_8(how, d, i + 8), KVC_8(how, d, i + 16)
#define KVC_32(how, d, i) KVC_24(how, d, i), KVC_8(how, d, i + 24)
#define KVC_40(how, d) KVC_32(how, d, 0), KVC_8(how, d, 32)
#define KVC_64(how, d) KVC_32(how, d, 0), KVC_32(how, d, 32)
#define KVC_88(how, d) KVC_64(how, d), KVC_24(how, d, 64)
#define KVC_128(how, d) KVC_64(how, d), KVC_32(how, d, 64), KVC_32(how, d, 96)

// d [64, 2 * count] = a [64, 16] b [16, 2 * count], or += where kAccumulate; a and b in shared memory. What d
// was before does not keep registers busy where it does not count.
#define KVC_WGMMA_SHARED(count, n, names, a, b, all)                                                        \
  template <bool kAccumulate>                                                                               \
  __device__ __forceinline__ void wgmma_shared(float(&d)[count], std::uint64_t left, std::uint64_t right) { \
    if constexpr (kAccumulate) {                                                                            \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" n "k16.f32.f16.f16 {" names "}, " a ", " b           \
                   ", 1, 1, 1, 0, 1;"                                                                       \
                   : all("+f", d)                                                                           \
                   : "l"(left), "l"(right));                                                                \
    } else {                                                                                                \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" n "k16.f32.f16.f16 {" names "}, " a ", " b           \
                   ", 0, 1, 1, 0, 1;"                                                                       \
                   : all("=f", d)                                                                           \
                   : "l"(left), "l"(right));                                                                \
    }                                                                                                       \
  }
#define KVC_FIRST_32(how, d) KVC_32(how, d, 0)
KVC_WGMMA_SHARED(32, "64", KVC_NAMES_0, "%32", "%33", KVC_FIRST_32)
KVC_WGMMA_SHARED(40, "80", KVC_NAMES_0 KVC_NAMES_32, "%40", "%41", KVC_40)
KVC_WGMMA_SHARED(64, "128", KVC_NAMES_0 KVC_NAMES_32 KVC_NAMES_40, "%64", "%65", KVC_64)
KVC_WGMMA_SHARED(88, "176", KVC_NAMES_0 KVC_NAMES_32 KVC_NAMES_40 KVC_NAMES_64, "%88", "%89", KVC_88)

// d [64, 2 * count] += a [64, 16] b [16, 2 * count]; a in registers, as mma's.
#define KVC_WGMMA_REGISTERS(count, n, names, a, b, all)                                           \
  __device__ __forceinline__ void wgmma_registers(float(&d)[count], const unsigned(&left)[4],     \
                                                  std::uint64_t right) {                          \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" n "k16.f32.f16.f16 {" names "}, {" a "}, " b \
                 ", 1, 1, 1, 1;"                                                                  \
                 : all("+f", d)                                                                   \
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right));           \
  }
KVC_WGMMA_REGISTERS(32, "64", KVC_NAMES_0, "%32, %33, %34, %35", "%36", KVC_FIRST_32)
KVC_WGMMA_REGISTERS(64, "128", KVC_NAMES_0 KVC_NAMES_32 KVC_NAMES_40, "%64, %65, %66, %67", "%68", KVC_64)
KVC_WGMMA_REGISTERS(128, "256", KVC_NAMES_0 KVC_NAMES_32 KVC_NAMES_40 KVC_NAMES_64 KVC_NAMES_88,
                    "%128, %129, %130, %131", "%132", KVC_128)

#undef KVC_NAMES_0
#undef KVC_NAMES_32
#undef KVC_NAMES_40
#undef KVC_NAMES_64
#undef KVC_NAMES_88
#undef KVC_8
#undef KVC_24
#undef KVC_32
#undef KVC_FIRST_32
#undef KVC_40
#undef KVC_64
#undef KVC_88
#undef KVC_128
#undef KVC_WGMMA_SHARED
#undef KVC_WGMMA_REGISTERS

}  // namespace kvcrush::cuda
