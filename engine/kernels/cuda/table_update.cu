#include "engine/kernels/cuda/table_update.h"

#include "engine/kernels/cuda/launch.h"

namespace kvcrush::cuda {

namespace {

constexpr unsigned kThreads = 256;

__global__ void update_tables_kernel(const TableUpdate* updates, int count) {
  const auto i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) *updates[i].entry = updates[i].block;
}

}  // namespace

void update_tables(const TableUpdate* updates, int count, Stream stream) {
  const auto blocks = (static_cast<unsigned>(count) + kThreads - 1) / kThreads;
  launch<update_tables_kernel>(LaunchShape{dim3{blocks}, dim3{kThreads}}, stream, updates, count);
}

}  // namespace kvcrush::cuda
