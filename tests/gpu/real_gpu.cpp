#include "engine/gpu/cuda_backend.h"
#include "tests/unit/gpu/gpu_under_test.h"

namespace kvcrush::testing {

const GpuBackend& gpu_under_test() {
  return cuda_backend();
}

}  // namespace kvcrush::testing
