// Starting a kernel, on a stream of the GPU or in the simulator.
#pragma once

#include <cstddef>

#ifdef __CUDACC__
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#endif

#include "engine/kernels/cuda/stream.h"

namespace kvcrush::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;  // dynamic
};

#ifdef __CUDACC__

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Throws std::runtime_error where the launch is refused. What fails later shows at the next synchronisation.
template <auto kKernel, class... Args>
void launch(const LaunchShape& shape, Stream stream, Args... args) {
  static const cudaError_t allowed = [] {
    int device = 0;
    int most = 0;  // bytes of a block: 163 KiB on an A100, 227 on an H100, 99 on consumer cards
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
      error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    const auto* kernel = reinterpret_cast<const void*>(kKernel);
    cudaFuncAttributes attributes{};
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, kernel);
    if (error != cudaSuccess) return error;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                most - static_cast<int>(attributes.sharedSizeBytes));
  }();
  check(allowed, "shared memory of a kernel");
  kKernel<<<shape.grid, shape.block, shape.shared_bytes, stream>>>(args...);
  check(cudaGetLastError(), "kernel launch");
}

#else

template <auto kKernel, class... Args>
void launch(const LaunchShape& shape, Stream /*stream*/, Args... args) {
  cuda_sim::run(shape.grid, shape.block, shape.shared_bytes, [&] { kKernel(args...); });
}

#endif

}  // namespace kvcrush::cuda
