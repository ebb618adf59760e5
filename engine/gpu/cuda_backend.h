// The GPUs of this machine, through CUDA. Only in builds with KVCRUSH_CUDA.
#pragma once

#include "engine/gpu/gpu_backend.h"

namespace kvcrush {

const GpuBackend& cuda_backend();

}  // namespace kvcrush
