// Where a build has kernels for a GPU, or a test a simulated one, the engine finds them here.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>

#include "engine/kv_cache/kv_storage.h"
#include "engine/loader/model_file.h"
#include "engine/model/model_executor.h"

namespace kvcrush {

struct GpuExecutorSpec {
  std::shared_ptr<const ModelFile> model;
  std::string device;        // "cuda" or "cuda:N"
  std::string weight_dtype;  // "bf16", "f16" or "f32": of weights and activations
  KvLayout kv_layout;
  int num_blocks = 0;
  int max_context_tokens = 0;
  int max_batch_tokens = 0;  // rows of a step at most
  bool graphs = false;       // decode steps are recorded and started as a whole
  std::int64_t prune_workspace_bytes = std::int64_t{256} << 20;
};

class GpuBackend {
 public:
  virtual ~GpuBackend() = default;
  // Throws std::runtime_error where there is no such device.
  virtual std::uint64_t free_bytes(const std::string& device) const = 0;
  // Throws where the device runs out of memory.
  virtual std::unique_ptr<ModelExecutor> make_executor(const GpuExecutorSpec& spec) const = 0;
};

// Null: this build runs on the CPU alone. Set before the first Engine is made; `backend` outlives all of
// them.
void set_gpu_backend(const GpuBackend* backend);
const GpuBackend* gpu_backend();

}  // namespace kvcrush
