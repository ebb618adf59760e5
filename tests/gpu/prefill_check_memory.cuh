// Device memory of tests without torch, and a paged pool filled on the GPU.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "engine/kernels/cuda/attention_plan.h"
#include "engine/kernels/cuda/device.cuh"

namespace kvcrush::prefill_check {

inline void must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("FAIL: %s: %s\n", what, cudaGetErrorString(error));
  std::fflush(stdout);
  std::_Exit(2);
}
// Ends the program where anything launched before went wrong.
inline void finish(const char* what) {
  must(cudaGetLastError(), what);
  must(cudaDeviceSynchronize(), what);
}
template <class Kernel>
void allow_shared(Kernel* kernel, int bytes) {
  must(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory");
}

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count) : count_(count) {
    must(cudaMalloc(&data_, std::max<std::size_t>(1, count) * sizeof(T)), "cudaMalloc");
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    must(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "to the GPU");
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }
  T* get() const { return data_; }
  std::size_t size() const { return count_; }
  void poison() { must(cudaMemset(data_, 255, count_ * sizeof(T)), "poison"); }  // NaN in every float format
  std::vector<T> to_host() const {
    std::vector<T> values(count_);
    must(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "from the GPU");
    return values;
  }

 private:
  T* data_ = nullptr;
  std::size_t count_;
};

__host__ __device__ inline unsigned mixed(unsigned x) {
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  return x ^ x >> 16;
}
// Bell-shaped, variance about 1.
__device__ inline float bell(unsigned seed) {
  const unsigned a = mixed(seed);
  const unsigned b = mixed(a + 0x9e3779b9U);
  const auto part = [](unsigned x) { return static_cast<float>(x & 0xffffU) / 65536.0F - 0.5F; };
  return 1.732F * (part(a) + part(a >> 16) + part(b) + part(b >> 16));
}

template <class Activation>
__global__ void fill_bell(Activation* to, std::int64_t count, unsigned seed, float factor) {
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < count;
       i += std::int64_t{gridDim.x} * blockDim.x)
    cuda::from_float(factor * bell(static_cast<unsigned>(i) * 2654435761U + seed), to[i]);
}

// Writes the cached tokens of one sequence; slots that hold none keep the poison. Grid: blocks, KV heads.
__global__ void fill_sequence(cpu::KvPool pool, cpu::CachedLayer cache, unsigned seed) {
  const int packed_blocks = cpu::num_packed_blocks(cache);
  const auto index = static_cast<int>(blockIdx.x);
  std::byte* head = cpu::head_base(pool, cache.blocks[index], static_cast<int>(blockIdx.y));
  const unsigned salt = mixed(seed + index * 131U + blockIdx.y * 7919U);
  if (index >= packed_blocks) {
    const int per_block = cache.format.tail_tokens_per_block;
    const int valid = cache.num_cached - cache.num_packed - (index - packed_blocks) * per_block;
    auto* keys = reinterpret_cast<cuda::F16*>(head);
    for (int i = threadIdx.x; i < per_block * pool.head_dim; i += blockDim.x) {
      if (i / (16 * pool.head_dim) * 16 + i % 16 < valid) cuda::from_float(bell(salt + 2U * i), keys[i]);
      if (i / pool.head_dim < valid)
        cuda::from_float(bell(salt + 2U * i + 1), keys[per_block * pool.head_dim + i]);
    }
    return;
  }
  const int per_block = cache.format.packed_tokens_per_block;
  const int levels = cache.format.packed == KvDtype::kInt4 ? 16 : 256;
  const cpu::QuantisedHead q = cpu::quantised_head(head, cache.format.packed, per_block, pool.head_dim);
  for (int i = threadIdx.x; i < (reinterpret_cast<std::byte*>(q.key_scales) - head) / 4; i += blockDim.x)
    reinterpret_cast<unsigned*>(head)[i] = mixed(salt + i);
  for (int i = threadIdx.x; i < 4 * per_block; i += blockDim.x) {
    if (index * per_block + i % per_block >= cache.num_packed) continue;
    const bool minimum = i / per_block % 2 == 1;
    const float spread = 1.5F + 0.5F * bell(salt + 77U * (i % per_block));
    cuda::F16 number;
    cuda::from_float(minimum ? -spread : 2 * spread / levels, number);
    q.key_scales[i] = number.bits;
  }
}

struct TestSequence {
  int num_cached;
  int num_queries;
  KvDtype dtype = KvDtype::kF16;
  int num_packed = 0;
  int num_branches = 1;
  int num_branch_slots = 0;
};

// Sequences in a pool of scattered blocks, all of it NaN but for the cached tokens.
class TestPool {
  int num_rows_ = 0;
  int num_blocks_ = 0;

 public:
  TestPool(int head_dim, int num_kv_heads, const std::vector<TestSequence>& shapes)
      : sequences(describe(head_dim, shapes)),
        bytes_(static_cast<std::size_t>(num_blocks_) * num_kv_heads * cpu::block_head_bytes(head_dim)),
        tables_(shuffled(num_blocks_)),
        on_device_(located(sequences)) {
    pool = {bytes_.get(), num_kv_heads * cpu::block_head_bytes(head_dim), num_kv_heads, head_dim};
    bytes_.poison();
    unsigned seed = 1;
    for (const cpu::AttentionSequence& s : sequences) {
      const auto blocks = static_cast<unsigned>(num_blocks_of(s.cache));
      fill_sequence<<<dim3(blocks, static_cast<unsigned>(num_kv_heads)), 256>>>(pool, s.cache, seed++);
    }
    finish("pool");
  }
  const cpu::AttentionSequence* on_device() const { return on_device_.get(); }
  int num_rows() const { return num_rows_; }

  cpu::KvPool pool;
  std::vector<cpu::AttentionSequence> sequences;  // tables on the device

 private:
  static int num_blocks_of(const cpu::CachedLayer& cache) {
    return cpu::num_packed_blocks(cache) +
           cpu::ceil_div(cache.num_cached - cache.num_packed, cache.format.tail_tokens_per_block);
  }
  std::vector<cpu::AttentionSequence> describe(int head_dim, const std::vector<TestSequence>& shapes) {
    std::vector<cpu::AttentionSequence> all;
    for (const TestSequence& shape : shapes) {
      const cpu::KvFormat format{
          KvDtype::kF16, shape.dtype, cpu::tokens_per_block(KvDtype::kF16, head_dim),
          is_quantised(shape.dtype) ? cpu::tokens_per_block(shape.dtype, head_dim) : 0};
      all.push_back({num_rows_,
                     shape.num_queries,
                     {nullptr, shape.num_packed, shape.num_cached, format},
                     shape.num_branches,
                     shape.num_branch_slots});
      num_rows_ += shape.num_queries;
      num_blocks_ += num_blocks_of(all.back().cache);
    }
    num_blocks_ += 3;  // of nobody
    return all;
  }
  static std::vector<std::int32_t> shuffled(int count) {
    std::vector<std::int32_t> blocks(static_cast<std::size_t>(count));
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(5));
    return blocks;
  }
  const std::vector<cpu::AttentionSequence>& located(std::vector<cpu::AttentionSequence>& all) const {
    const std::int32_t* next = tables_.get();
    for (cpu::AttentionSequence& s : all) {
      s.cache.blocks = next;
      next += num_blocks_of(s.cache);
    }
    return all;
  }

  DeviceArray<std::byte> bytes_;
  DeviceArray<std::int32_t> tables_;
  DeviceArray<cpu::AttentionSequence> on_device_;
};

}  // namespace kvcrush::prefill_check
