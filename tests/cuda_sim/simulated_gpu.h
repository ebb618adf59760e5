// A GPU backend for engines whose kernels the simulator runs.
#pragma once

#include "engine/gpu/gpu_backend.h"

namespace kvcrush::testing {

const GpuBackend& simulated_gpu();

}  // namespace kvcrush::testing
