#include "engine/gpu/cuda_backend.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/core/status.h"
#include "engine/gpu/gpu_runner.h"

namespace kvcrush {

namespace {

constexpr int kMarks = 2;  // of Staging

void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

cudaDataType_t cuda_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return CUDA_R_32F;
    case at::kHalf:
      return CUDA_R_16F;
    case at::kBFloat16:
      return CUDA_R_16BF;
    default:
      KVCRUSH_CHECK(false);
  }
}

class CudaGraph final : public GpuGraph {
 public:
  CudaGraph(cudaGraphExec_t graph, cudaStream_t stream) : graph_(graph), stream_(stream) {}
  ~CudaGraph() override { cudaGraphExecDestroy(graph_); }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  void launch() override { check_cuda(cudaGraphLaunch(graph_, stream_), "starting a graph"); }

 private:
  cudaGraphExec_t graph_;
  cudaStream_t stream_;
};

// All work goes to a stream of its own: the default one cannot be recorded.
class CudaRuntime final : public GpuRuntime {
 public:
  explicit CudaRuntime(at::Device device)
      : device_(device),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())),
        copies_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())) {
    enter();
    for (cudaEvent_t& event : events_)
      check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
    load_cublas();
  }
  ~CudaRuntime() override {
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
    for (const Note& note : notes_) cudaEventDestroy(note.event);
  }

  at::Device device() const override { return device_; }
  void enter() override {
    c10::cuda::set_device(device_.index());
    c10::cuda::setCurrentCUDAStream(stream_);
  }
  cuda::Stream stream() const override { return stream_.stream(); }
  int num_processors() const override {
    return at::cuda::getDeviceProperties(device_.index())->multiProcessorCount;
  }
  at::Tensor host_buffer(std::int64_t bytes) const override {
    return at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(true));
  }
  void copy_to_device(void* target, const void* source, std::size_t bytes) override {
    check_cuda(cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, stream()),
               "copying to the GPU");
  }
  void mark(int mark) override {
    check_cuda(cudaEventRecord(events_.at(static_cast<std::size_t>(mark)), stream()), "recording an event");
  }
  void wait_for(int mark) override {
    check_cuda(cudaEventSynchronize(events_.at(static_cast<std::size_t>(mark))), "waiting for the GPU");
  }
  int note_time() override;
  std::optional<double> seconds_between(int earlier, int later) override;
  void give_back(int note) override { notes_.at(static_cast<std::size_t>(note)).in_use = false; }
  void matmul(const at::Tensor& x, const at::Tensor& w, at::Tensor& out) override;
  std::unique_ptr<GpuGraph> record(const std::function<void()>& work) override;
  at::Tensor fetch(const at::Tensor& values) override;
  at::Tensor send(const at::Tensor& fetched) override;
  void wait_for_copies() override { copies_.synchronize(); }
  at::Tensor to_host(const at::Tensor& values) override { return values.to(at::kCPU); }

 private:
  // What `later` is given from now on starts after what `earlier` has been given.
  void follow(const c10::cuda::CUDAStream& later, const c10::cuda::CUDAStream& earlier) {
    meeting_.record(earlier);
    meeting_.block(later);
  }
  // A first product takes a tenth of a second: now, not in the first request.
  void load_cublas() {
    const auto options = at::TensorOptions(at::kBFloat16).device(device_);
    at::Tensor out = at::empty({1, 64}, options);
    matmul(at::ones({1, 64}, options), at::ones({64, 64}, options), out);
  }

  struct Note {
    cudaEvent_t event = nullptr;
    bool in_use = false;
  };

  at::Device device_;
  c10::cuda::CUDAStream stream_;
  c10::cuda::CUDAStream copies_;
  at::cuda::CUDAEvent meeting_;
  std::vector<Note> notes_;
  std::array<cudaEvent_t, kMarks> events_{};
};

int CudaRuntime::note_time() {
  auto note = std::find_if(notes_.begin(), notes_.end(), [](const Note& n) { return !n.in_use; });
  if (note == notes_.end()) {
    Note fresh;
    check_cuda(cudaEventCreate(&fresh.event), "creating an event");
    note = notes_.insert(notes_.end(), fresh);
  }
  check_cuda(cudaEventRecord(note->event, stream()), "recording an event");
  note->in_use = true;
  return static_cast<int>(note - notes_.begin());
}

std::optional<double> CudaRuntime::seconds_between(int earlier, int later) {
  const cudaEvent_t start = notes_.at(static_cast<std::size_t>(earlier)).event;
  const cudaEvent_t stop = notes_.at(static_cast<std::size_t>(later)).event;
  float ms = 0;
  if (cudaEventQuery(stop) == cudaSuccess && cudaEventElapsedTime(&ms, start, stop) == cudaSuccess)
    return ms / 1000.0;
  cudaGetLastError();  // "not ready" is none; else it would show at the next launch
  return std::nullopt;
}

// cuBLAS counts columns first: out^T [n, T] = w [n, k] x^T [k, T], where a row-major matrix is its own
// transpose.
void CudaRuntime::matmul(const at::Tensor& x, const at::Tensor& w, at::Tensor& out) {
  KVCRUSH_CHECK(x.scalar_type() == w.scalar_type() && x.size(1) == w.size(1) && out.size(0) == x.size(0) &&
                out.size(1) == w.size(0));
  KVCRUSH_CHECK(x.stride(1) == 1 && w.is_contiguous() && out.stride(1) == 1);
  const float one = 1.0F;
  const float zero = 0.0F;
  const cublasStatus_t status = cublasGemmEx(
      at::cuda::getCurrentCUDABlasHandle(), CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(w.size(0)),
      static_cast<int>(x.size(0)), static_cast<int>(x.size(1)), &one, w.const_data_ptr(),
      cuda_type(w.scalar_type()), static_cast<int>(w.stride(0)), x.const_data_ptr(),
      cuda_type(x.scalar_type()), static_cast<int>(x.stride(0)), &zero, out.data_ptr(),
      cuda_type(out.scalar_type()), static_cast<int>(out.stride(0)), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(std::string("matrix product on the GPU: ") + cublasGetStatusString(status));
}

std::unique_ptr<GpuGraph> CudaRuntime::record(const std::function<void()>& work) {
  check_cuda(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "beginning a graph");
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream(), &graph);  // the stream goes on; what was wrong is on its way up
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check_cuda(cudaStreamEndCapture(stream(), &graph), "recording a graph");
  cudaGraphExec_t ready = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&ready, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(error, "making a graph ready");
  return std::make_unique<CudaGraph>(ready, stream());
}

// The allocator hands out device memory by the order of the stream it was allocated on, here the
// computation's: it must be told of the other, and a new piece's former owner may still be computing.
at::Tensor CudaRuntime::fetch(const at::Tensor& values) {
  at::Tensor host = at::empty(values.sizes(), values.options().device(at::kCPU).pinned_memory(true));
  follow(copies_, stream_);
  const c10::cuda::CUDAStreamGuard guard(copies_);
  host.copy_(values, /*non_blocking=*/true);
  c10::cuda::CUDACachingAllocator::recordStream(values.storage().data_ptr(), copies_);
  return host;
}

at::Tensor CudaRuntime::send(const at::Tensor& fetched) {
  at::Tensor values = at::empty(fetched.sizes(), fetched.options().device(device_).pinned_memory(false));
  follow(copies_, stream_);
  {
    const c10::cuda::CUDAStreamGuard guard(copies_);
    values.copy_(fetched, /*non_blocking=*/true);
  }
  c10::cuda::CUDACachingAllocator::recordStream(values.storage().data_ptr(), copies_);
  follow(stream_, copies_);
  return values;
}

at::Device device_of(const std::string& name) {
  const at::Device device(name == "cuda" ? "cuda:0" : name);
  const int count = c10::cuda::device_count();
  if (device.index() >= count)
    throw std::runtime_error("there is no " + name + ": this machine has " + std::to_string(count) +
                             " CUDA devices");
  return device;
}

class CudaBackend final : public GpuBackend {
 public:
  std::uint64_t free_bytes(const std::string& name) const override {
    const c10::cuda::CUDAGuard guard(device_of(name));
    std::size_t free = 0;
    std::size_t total = 0;
    check_cuda(cudaMemGetInfo(&free, &total), "asking for free GPU memory");
    return free;
  }
  std::unique_ptr<ModelExecutor> make_executor(const GpuExecutorSpec& spec) const override {
    return make_gpu_runner(spec, make_cuda_runtime(spec.device));
  }
};

}  // namespace

std::unique_ptr<GpuRuntime> make_cuda_runtime(const std::string& device) {
  return std::make_unique<CudaRuntime>(device_of(device));
}

const GpuBackend& cuda_backend() {
  static const CudaBackend backend;
  return backend;
}

}  // namespace kvcrush
