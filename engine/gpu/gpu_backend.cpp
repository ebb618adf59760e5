#include "engine/gpu/gpu_backend.h"

namespace kvcrush {

namespace {

const GpuBackend*& registered() {
  static const GpuBackend* backend = nullptr;
  return backend;
}

}  // namespace

void set_gpu_backend(const GpuBackend* backend) {
  registered() = backend;
}
const GpuBackend* gpu_backend() {
  return registered();
}

}  // namespace kvcrush
