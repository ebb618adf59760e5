#include "engine/engine_options.h"

#include <algorithm>
#include <exception>

#include "engine/gpu/gpu_backend.h"
#ifdef KVCRUSH_CUDA
#include "engine/gpu/cuda_backend.h"
#endif

namespace kvcrush {

Result<std::string> resolve_device(const std::string& name) {
#ifdef KVCRUSH_CUDA
  if (gpu_backend() == nullptr) set_gpu_backend(&cuda_backend());
#endif
  const GpuBackend* gpu = gpu_backend();
  if (name == "cpu") return name;
  if (name == "auto") {
    if (gpu == nullptr) return std::string("cpu");
    try {
      (void)gpu->free_bytes("cuda:0");
      return std::string("cuda:0");
    } catch (const std::exception&) {  // a build for GPUs on a machine without one
      return std::string("cpu");
    }
  }
  const bool names_cuda = name == "cuda" || (name.starts_with("cuda:") && name.size() > 5 &&
                                             std::all_of(name.begin() + 5, name.end(),
                                                         [](char c) { return c >= '0' && c <= '9'; }));
  if (!names_cuda) return invalid_argument("device is '" + name + "'; allowed: auto, cpu, cuda:N");
  if (gpu == nullptr)
    return invalid_argument("device is '" + name +
                            "', but this build is for the CPU only (configure with -DKVCRUSH_CUDA=ON)");
  try {
    (void)gpu->free_bytes(name);
  } catch (const std::exception& error) {
    return invalid_argument("device is '" + name + "', but " + error.what());
  }
  return name;
}

namespace {

std::int64_t weight_elements(const ModelFile& model) {
  std::int64_t elements = 0;
  for (const auto& [name, view] : model.weights) elements += view.num_elements();
  return elements;
}

std::int64_t workspace_bytes(const ModelConfig& model, const EngineConfig& config, int max_context_tokens) {
  constexpr std::int64_t kFloatBytes = 4;
  const std::int64_t heads = model.num_heads + 2 * model.num_kv_heads;
  const std::int64_t row = 3 * model.hidden_size + 3 * model.intermediate_size + 2 * heads * model.head_dim;
  // A prune takes its layers in groups of a quarter of a gigabyte, or one.
  const std::int64_t scores =
      std::max<std::int64_t>(std::int64_t{1} << 28, kFloatBytes * 2 * (model.num_heads + model.num_kv_heads) *
                                                        std::int64_t{max_context_tokens});
  constexpr std::int64_t kLibraries = std::int64_t{512} << 20;  // CUDA context, cuBLAS and allocator slack
  return kFloatBytes *
             (config.max_batch_tokens * row + std::int64_t{config.max_running_sequences} * model.vocab_size) +
         scores + kLibraries;
}

}  // namespace

Result<EngineConfig> fill_gpu(const ModelFile& model, EngineConfig config, const std::string& device) {
  const int max_context_tokens =
      config.max_context_tokens == 0 ? model.config.max_context_tokens : config.max_context_tokens;
  const std::int64_t weights = weight_elements(model) * (config.weight_dtype == "f32" ? 4 : 2);
  const std::int64_t workspace = workspace_bytes(model.config, config, max_context_tokens);
  const auto free = static_cast<std::int64_t>(gpu_backend()->free_bytes(device));
  const std::int64_t left = free - weights - workspace;
  if (left > 0) {
    config.kv_memory_bytes = static_cast<std::uint64_t>(left);
    return config;
  }
  const auto mib = [](std::int64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; };
  return Status(StatusCode::kResourceExhausted, device + " has " + mib(free) + " free; weights take " +
                                                    mib(weights) + " and workspace " + mib(workspace) +
                                                    ", which leaves no KV cache");
}

Status check_device_options(const EngineConfig& config, const std::string& device) {
  if (!config.cuda_graphs || device != "cpu") return {};
  return invalid_argument("cuda_graphs is true and the device 'cpu'; allowed: on a GPU");
}

Result<std::string> resolve_weight_dtype(const std::string& name, const std::string& device) {
  if (device != "cpu") return name == "auto" ? std::string("bf16") : name;
  if (name == "auto" || name == "f32") return name;
  return invalid_argument("weight_dtype is '" + name + "'; allowed on the CPU: auto, f32");
}

Status check_config(const EngineConfig& config) {
  const auto at_least = [](const char* field, std::int64_t value, std::int64_t least) {
    if (value >= least) return Status();
    return invalid_argument(std::string(field) + " is " + std::to_string(value) + "; allowed: at least " +
                            std::to_string(least));
  };
  KVCRUSH_RETURN_IF_ERROR(at_least("max_running_sequences", config.max_running_sequences, 1));
  KVCRUSH_RETURN_IF_ERROR(at_least("max_waiting_sequences", config.max_waiting_sequences, 1));
  KVCRUSH_RETURN_IF_ERROR(at_least("max_waiting_tokens", config.max_waiting_tokens, 1));
  KVCRUSH_RETURN_IF_ERROR(
      at_least("max_batch_tokens", config.max_batch_tokens, config.max_running_sequences));
  KVCRUSH_RETURN_IF_ERROR(at_least("max_context_tokens", config.max_context_tokens, 0));
  const std::string& type = config.weight_dtype;
  if (type != "auto" && type != "bf16" && type != "f16" && type != "f32")
    return invalid_argument("weight_dtype is '" + type + "'; allowed: auto, bf16, f16, f32");
  return at_least("num_threads", config.num_threads, 0);
}

}  // namespace kvcrush
