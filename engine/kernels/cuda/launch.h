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

// Shared memory that a block may have on the current device: 163 KiB on an A100, 227 on an H100, 99 on
// consumer cards.
inline int most_shared_bytes() {
  static const int most = [] {
    int device = 0;
    int bytes = 0;
    const bool known =
        cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess;
    return known ? bytes : 0;
  }();
  return most;
}

template <auto kKernel>
cudaError_t allow_shared_memory() {
  static const cudaError_t allowed = [] {
    const auto* kernel = reinterpret_cast<const void*>(kKernel);
    cudaFuncAttributes attributes{};
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error != cudaSuccess) return error;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                most_shared_bytes() - static_cast<int>(attributes.sharedSizeBytes));
  }();
  return allowed;
}

// Throws std::runtime_error where the launch is refused. What fails later shows at the next synchronisation.
template <auto kKernel, class... Args>
void launch(const LaunchShape& shape, Stream stream, Args... args) {
  check(allow_shared_memory<kKernel>(), "shared memory of a kernel");
  kKernel<<<shape.grid, shape.block, shape.shared_bytes, stream>>>(args...);
  check(cudaGetLastError(), "kernel launch");
}

// Whether kernels of launch_early() may start early; a benchmark turns it off to compare.
inline bool& early_launches() {
  static bool wanted = [] {
    int device = 0;
    int major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
           major >= 9;
  }();
  return wanted;
}

// For kernels that call wait_for_earlier_kernels() before they read what others wrote, or write: they start
// when the one before them lets them, not when it is done (programmatic dependent launch).
template <auto kKernel, class... Args>
void launch_early(const LaunchShape& shape, Stream stream, Args... args) {
  check(allow_shared_memory<kKernel>(), "shared memory of a kernel");
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = early_launches() ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kKernel, args...), "kernel launch");
}

#else

inline int most_shared_bytes() {
  return 163 << 10;
}

template <auto kKernel, class... Args>
void launch(const LaunchShape& shape, Stream /*stream*/, Args... args) {
  cuda_sim::start(
      [=] { cuda_sim::run(shape.grid, shape.block, shape.shared_bytes, [&] { kKernel(args...); }); });
}
template <auto kKernel, class... Args>
void launch_early(const LaunchShape& shape, Stream stream, Args... args) {
  launch<kKernel>(shape, stream, args...);
}

#endif

}  // namespace kvcrush::cuda
