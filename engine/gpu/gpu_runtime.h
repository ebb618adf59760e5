// What the GPU path needs of a device beside tensors and kernels. One implementation for CUDA; tests have one
// for the simulator, whose device memory is the host's.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>

#include "engine/kernels/cuda/stream.h"

namespace kvcrush {

// Work that was recorded once, to be started as a whole. At most until the runtime that recorded it is gone.
class GpuGraph {
 public:
  virtual ~GpuGraph() = default;
  virtual void launch() = 0;
};

class GpuRuntime {
 public:
  virtual ~GpuRuntime() = default;

  virtual at::Device device() const = 0;
  // Makes it the calling thread's device, and stream() the stream of the thread's work.
  virtual void enter() = 0;
  virtual cuda::Stream stream() const = 0;  // all work goes there
  // Multiprocessors of the GPU.
  virtual int num_processors() const = 0;
  // uint8 [bytes] on the host, such that copy_to_device() runs beside the host.
  virtual at::Tensor host_buffer(std::int64_t bytes) const = 0;
  virtual void copy_to_device(void* target, const void* source, std::size_t bytes) = 0;
  // Marks what was started so far; wait_for(mark) returns once it is done. Marks are few and reused.
  virtual void mark(int mark) = 0;
  virtual void wait_for(int mark) = 0;
  // Has the stream note the time when it gets here. Notes are few, and reused once they are given back.
  virtual int note_time() = 0;
  // From one note to a later one. Unset: the stream is not there yet; an error shows where work is started.
  virtual std::optional<double> seconds_between(int earlier, int later) = 0;
  virtual void give_back(int note) = 0;
  // out [T, n] = x [T, k] w^T, w [n, k]. x and w of one type; out of that type or float32.
  virtual void matmul(const at::Tensor& x, const at::Tensor& w, at::Tensor& out) = 0;
  // What `work` puts on the stream, without running it. It must not allocate, wait or copy. Throws what
  // `work` throws, and std::runtime_error where the device records nothing of the kind.
  virtual std::unique_ptr<GpuGraph> record(const std::function<void()>& work) = 0;
  // Copies beside the computation, on a stream of their own, without waiting: of `values` as what was started
  // so far leaves them, into memory of the host that only send() may read; and of such memory into new memory
  // of the device, which what is started later finds filled.
  virtual at::Tensor fetch(const at::Tensor& values) = 0;
  virtual at::Tensor send(const at::Tensor& fetched) = 0;
  // Waits for these copies.
  virtual void wait_for_copies() = 0;
  // Copies to the host and waits for it.
  virtual at::Tensor to_host(const at::Tensor& values) = 0;
};

}  // namespace kvcrush
