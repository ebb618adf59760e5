#include "engine/kernels/cuda/prefill_sm90.h"

#include <algorithm>
#include <array>
#include <atomic>

#include "engine/core/status.h"
#include "engine/kernels/cuda/prefill_sm90_attend.cuh"
#include "engine/kernels/cuda/shared_steps.cuh"

namespace kvcrush::cuda {

namespace {

// One block a multiprocessor, or fewer where there is less to do.
template <int kHeadDim, bool kQuantised, class Activation>
void run(const AttentionCall& call, Stream stream) {
  using Shape = PrefillShape<kHeadDim, kQuantised>;
  static_assert(Shape::kRows == kPrefillRows);
  const PrefillParams<Activation> p{.work = {.sequences = call.sequences,
                                             .row_tiles = call.prefill,
                                             .num_items = call.num_prefill * call.pool.num_kv_heads,
                                             .pool = call.pool,
                                             .group = call.num_heads / call.pool.num_kv_heads},
                                    .q = static_cast<const Activation*>(call.q),
                                    .q_stride = call.q_stride,
                                    .num_heads = call.num_heads,
                                    .scale = call.scale,
                                    .out = static_cast<Activation*>(call.out),
                                    .row_stats = call.row_stats};
  const auto blocks = static_cast<unsigned>(std::min(p.work.num_items, call.num_processors));
  launch<prefill_kernel<Shape, Activation>>(
      LaunchShape{dim3{blocks}, dim3{Shape::kThreads}, Shape::kSharedBytes}, stream, p);
}

template <int kHeadDim>
void run_for_head(const AttentionCall& call, Stream stream) {
  with_type(call.activations, [&](auto type) {
    is_quantised(call.widest) ? run<kHeadDim, true, decltype(type)>(call, stream)
                              : run<kHeadDim, false, decltype(type)>(call, stream);
  });
}

// Whether the current device is Hopper, and this was compiled for sm_90a: for other architectures, sm_90
// among them, the kernel is a stub of few registers.
bool runs_here() {
  constexpr int kStubRegisters = 64;
  int device = 0;
  int major = 0;
  int minor = 0;
  cudaFuncAttributes attributes{};
  const auto* kernel = reinterpret_cast<const void*>(prefill_kernel<PrefillShape<128, false>, BF16>);
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess &&
         major == 9 && minor == 0 && cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess &&
         attributes.numRegs > kStubRegisters;
}

bool runs_on_current_device() {
  enum : int { kUnknown, kNo, kYes };
  static std::array<std::atomic<int>, 64> known{};  // by device
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= static_cast<int>(known.size())) return false;
  std::atomic<int>& answer = known[static_cast<std::size_t>(device)];
  if (answer.load() == kUnknown) answer = runs_here() ? kYes : kNo;
  return answer.load() == kYes;
}

}  // namespace

bool prefill_sm90_serves(int head_dim, KvDtype widest) {
  return (head_dim == 64 || head_dim == 128) && (widest == KvDtype::kF16 || is_quantised(widest)) &&
         runs_on_current_device();
}

void prefill_sm90(const AttentionCall& call, Stream stream) {
  KVCRUSH_CHECK(call.pool.head_dim == 64 || call.pool.head_dim == 128);
  if (call.num_prefill == 0) return;
  call.pool.head_dim == 64 ? run_for_head<64>(call, stream) : run_for_head<128>(call, stream);
}

}  // namespace kvcrush::cuda
