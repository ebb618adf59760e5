// How wgmma reads shared memory: K, V and Q in the kernel's layouts, multiplied through descriptors of each
// plausible reading. Where the reading that the kernel is built on is not right, prints from where each
// element is read.
#pragma once

#include <cmath>
#include <cstdio>
#include <vector>

#include "engine/kernels/cuda/prefill_sm90.cuh"
#include "tests/gpu/prefill_check_memory.cuh"

namespace kvcrush::prefill_check {

using namespace cuda;

inline constexpr int kProbeTokens = 128;
inline constexpr int kProbeDim = 128;

struct Offsets {
  int leading = 0;
  int stride = 0;
};

// A operand of columns [first, first + 16) of a row-major matrix.
__device__ inline void load_fragment(const F16* matrix, int stride, int first, unsigned (&fragment)[4]) {
  const int row = static_cast<int>(threadIdx.x) / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
  const int column = first + static_cast<int>(threadIdx.x) % 4 * 2;
  for (int i = 0; i < 4; ++i)
    fragment[i] =
        *reinterpret_cast<const unsigned*>(matrix + (row + i % 2 * 8) * stride + column + i / 2 * 8);
}
__device__ inline void store_result(const float (&result)[64], float* to) {
  const int row = static_cast<int>(threadIdx.x) / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
  for (int i = 0; i < 64; ++i)
    to[(row + i / 2 % 2 * 8) * 128 + i / 4 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2] = result[i];
}

// results [3][64][128]: queries from registers x K, queries from shared memory x K, weights from registers x
// V. keys: [tiles][dim][16], values: [tokens][dim], as in the pool.
template <Swizzle kSwizzle>
__global__ void probe_kernel(const F16* queries, const F16* weights, const F16* keys, const F16* values,
                             Offsets key_offsets, Offsets value_offsets, float* results) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using Keys = KeyLayout<kProbeDim, kProbeTokens, kSwizzle>;
  using Values = ValueLayout<kProbeDim>;
  std::byte* base = dynamic_shared() + (0U - shared_address(dynamic_shared())) % 1024;
  std::byte* v = base + Keys::kBytes;
  std::byte* q = v + kProbeTokens * kProbeDim * 2;
  for (int i = static_cast<int>(threadIdx.x); i < kProbeTokens * kProbeDim; i += kWarpgroup) {
    const int tile = i / (16 * kProbeDim);
    const int d = i / 16 % kProbeDim;
    reinterpret_cast<F16*>(base + Keys::offset(tile, d, i % 16 / 8))[i % 8] = keys[i];
    const int token = i / kProbeDim;
    const int channel = i % kProbeDim;
    reinterpret_cast<F16*>(v + Values::offset(token / 16, token % 16, channel / 8))[i % 8] = values[i];
    if (token < kGroupRows)
      reinterpret_cast<F16*>(q + QueryLayout<kProbeDim>::offset(token, channel / 8))[i % 8] = queries[i];
  }
  fence_for_wgmma();
  __syncthreads();
  const auto k_operand =
      operand_descriptor(shared_address(base), key_offsets.leading, key_offsets.stride, kSwizzle);
  const auto v_operand =
      operand_descriptor(shared_address(v), value_offsets.leading, value_offsets.stride, Swizzle::k128);
  const auto q_operand = QueryLayout<kProbeDim>::descriptor(shared_address(q));
  for (int which = 0; which < 3; ++which) {
    float result[64] = {};
    for (int step = 0; step < 8; ++step) {
      unsigned fragment[4];
      load_fragment(which == 2 ? weights : queries, 128, 16 * step, fragment);
      wgmma_fence();
      if (which == 0) wgmma_registers(result, fragment, advanced(k_operand, Keys::step_bytes(step)));
      if (which == 1)
        wgmma_shared<true>(result, advanced(q_operand, QueryLayout<kProbeDim>::step_bytes(step)),
                           advanced(k_operand, Keys::step_bytes(step)));
      if (which == 2) wgmma_registers(result, fragment, advanced(v_operand, step * Values::kTileBytes));
      wgmma_commit();
      wgmma_wait<0>();
      hold(result);
    }
    store_result(result, results + which * kGroupRows * 128);
  }
#endif
}

// map [16][128]: the offset in shared memory, in elements, of the B operand's element (k, n).
__global__ void map_kernel(Offsets offsets, Swizzle swizzle, float* map) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  std::byte* base = dynamic_shared() + (0U - shared_address(dynamic_shared())) % 1024;
  constexpr int kElements = 65536 / 2;
  float sum[64] = {};
  for (int part = 0; part < 2; ++part) {  // float16 holds integers up to 2048
    for (int i = static_cast<int>(threadIdx.x); i < kElements; i += kWarpgroup)
      from_float(part == 0 ? i % 1024 : i / 1024, reinterpret_cast<F16*>(base)[i]);
    fence_for_wgmma();
    __syncthreads();
    unsigned one_hot[4] = {};
    const int row = static_cast<int>(threadIdx.x) % 32 / 4;
    for (int i = 0; i < 4 && threadIdx.x < 32; ++i) {
      for (int j = 0; j < 2; ++j) {
        const int column = static_cast<int>(threadIdx.x) % 4 * 2 + i / 2 * 8 + j;
        if (column == row + i % 2 * 8) one_hot[i] |= 0x3c00U << 16 * j;
      }
    }
    float result[64] = {};
    wgmma_fence();
    wgmma_registers(result, one_hot,
                    operand_descriptor(shared_address(base), offsets.leading, offsets.stride, swizzle));
    wgmma_commit();
    wgmma_wait<0>();
    hold(result);
    for (int i = 0; i < 64; ++i) sum[i] += part == 0 ? result[i] : 1024 * result[i];
    __syncthreads();
  }
  if (threadIdx.x < 32) {
    for (int i = 0; i < 64; ++i)
      map[(static_cast<int>(threadIdx.x) / 4 + i / 2 % 2 * 8) * 128 + i / 4 * 8 +
          static_cast<int>(threadIdx.x) % 4 * 2 + i % 2] = sum[i];
  }
#endif
}

inline void print_map(const char* what, Offsets offsets, Swizzle swizzle) {
  DeviceArray<float> map(16 * 128);
  allow_shared(map_kernel, 70000);
  map_kernel<<<1, kWarpgroup, 70000>>>(offsets, swizzle, map.get());
  finish("descriptor map");
  const std::vector<float> at = map.to_host();
  std::printf("  %s reads, in bytes:", what);
  for (const int k : {0, 1, 2, 4, 8}) std::printf(" k%d:%.0f", k, 2 * at[static_cast<std::size_t>(k) * 128]);
  for (const int n : {1, 8, 16, 32, 64}) std::printf(" n%d:%.0f", n, 2 * at[static_cast<std::size_t>(n)]);
  std::printf("\n");
}

struct ProbeData {
  std::vector<F16> queries, weights, keys, values;
  std::vector<float> scores, outputs;

  ProbeData() {
    const auto numbers = [](int count, unsigned seed) {
      std::vector<F16> all(static_cast<std::size_t>(count));
      for (F16& x : all) {
        seed = seed * 1664525U + 1013904223U;
        x.bits = __half_as_ushort(__float2half_rn(static_cast<float>(seed >> 28) - 7.5F));
      }
      return all;
    };
    queries = numbers(kGroupRows * 128, 1);
    weights = numbers(kGroupRows * 128, 2);
    keys = numbers(128 * 128, 3);
    values = numbers(128 * 128, 4);
    const auto f = [](F16 x) { return __half2float(__ushort_as_half(x.bits)); };
    for (std::size_t row = 0; row < kGroupRows; ++row) {
      for (std::size_t column = 0; column < 128; ++column) {
        float score = 0;
        float output = 0;
        for (std::size_t k = 0; k < 128; ++k) {
          score += f(queries[row * 128 + k]) * f(keys[column / 16 * 2048 + k * 16 + column % 16]);
          output += f(weights[row * 128 + k]) * f(values[k * 128 + column]);
        }
        scores.push_back(score);
        outputs.push_back(output);
      }
    }
  }
};

inline int count_wrong(const std::vector<float>& actual, std::size_t part,
                       const std::vector<float>& expected) {
  int wrong = 0;
  for (std::size_t i = 0; i < expected.size(); ++i)
    wrong += std::abs(actual[part * expected.size() + i] - expected[i]) > 0.01F ? 1 : 0;
  return wrong;
}

// Whether the kernel's own reading is right.
template <Swizzle kSwizzle>
bool probe(const ProbeData& data) {
  using Keys = KeyLayout<kProbeDim, kProbeTokens, kSwizzle>;
  using Values = ValueLayout<kProbeDim>;
  const DeviceArray<F16> queries(data.queries), weights(data.weights), keys(data.keys), values(data.values);
  allow_shared(probe_kernel<kSwizzle>, 100000);
  bool as_built = true;
  for (const bool swapped : {false, true}) {
    const Offsets k =
        swapped ? Offsets{Keys::kStride, Keys::kLeading} : Offsets{Keys::kLeading, Keys::kStride};
    const Offsets v =
        swapped ? Offsets{Values::kStride, Values::kLeading} : Offsets{Values::kLeading, Values::kStride};
    DeviceArray<float> results(3 * kGroupRows * 128);
    probe_kernel<kSwizzle><<<1, kWarpgroup, 100000>>>(queries.get(), weights.get(), keys.get(), values.get(),
                                                      k, v, results.get());
    finish("probe");
    const std::vector<float> actual = results.to_host();
    const int keys_wrong = count_wrong(actual, 0, data.scores);
    const int queries_wrong = count_wrong(actual, 1, data.scores);
    const int values_wrong = count_wrong(actual, 2, data.outputs);
    std::printf("probe, K rows of %d bytes, offsets %s: of 8192 wrong: K %d, Q and K %d, V %d\n",
                Keys::kNarrow ? 32 : 128, swapped ? "swapped" : "as built", keys_wrong, queries_wrong,
                values_wrong);
    if (swapped) continue;
    as_built = keys_wrong + queries_wrong + values_wrong == 0;
    if (keys_wrong > 0) print_map("K", k, kSwizzle);
    if (values_wrong > 0) print_map("V", v, Swizzle::k128);
  }
  return as_built;
}

}  // namespace kvcrush::prefill_check
