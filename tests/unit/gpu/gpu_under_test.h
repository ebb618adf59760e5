// The GPU that engine tests run on: the simulator's, or this machine's (tests/gpu).
#pragma once

#include "engine/gpu/gpu_backend.h"

namespace kvcrush::testing {

const GpuBackend& gpu_under_test();

}  // namespace kvcrush::testing
