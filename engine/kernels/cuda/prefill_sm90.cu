#include "engine/kernels/cuda/prefill_sm90.h"

#include <array>
#include <atomic>

#include "engine/core/status.h"
#include "engine/kernels/cuda/prefill_sm90_attend.cuh"

namespace kvcrush::cuda {

namespace {

template <int kHeadDim, bool kQuantised, class Activation>
void run(const AttentionCall& call, Stream stream) {
  using Shape = PrefillShape<kHeadDim, kQuantised>;
  static_assert(Shape::kRows == kPrefillRows);
  launch_prefill<Shape, Activation>(call, stream);
}

template <int kHeadDim, class Activation>
void run_for_dtype(const AttentionCall& call, Stream stream) {
  is_quantised(call.widest) ? run<kHeadDim, true, Activation>(call, stream)
                            : run<kHeadDim, false, Activation>(call, stream);
}

template <int kHeadDim>
void run_for_activations(const AttentionCall& call, Stream stream) {
  switch (call.activations) {
    case ActivationType::kF32:
      return run_for_dtype<kHeadDim, float>(call, stream);
    case ActivationType::kF16:
      return run_for_dtype<kHeadDim, F16>(call, stream);
    case ActivationType::kBF16:
      return run_for_dtype<kHeadDim, BF16>(call, stream);
  }
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
  call.pool.head_dim == 64 ? run_for_activations<64>(call, stream) : run_for_activations<128>(call, stream);
}

}  // namespace kvcrush::cuda
