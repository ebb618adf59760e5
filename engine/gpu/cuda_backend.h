// The GPUs of this machine, through CUDA. Only in builds with KVCRUSH_CUDA.
#pragma once

#include "engine/gpu/gpu_backend.h"
#include "engine/gpu/gpu_runtime.h"

namespace kvcrush {

const GpuBackend& cuda_backend();
// device: "cuda" or "cuda:N". Throws std::runtime_error where there is none.
std::unique_ptr<GpuRuntime> make_cuda_runtime(const std::string& device);

}  // namespace kvcrush
