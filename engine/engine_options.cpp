#include "engine/engine_options.h"

#include <algorithm>

#include "engine/kernels/cpu/cpu_kernels.h"

namespace kvcrush {

Result<at::Device> parse_device(const std::string& name) {
  if (name == "cpu") return at::Device(at::kCPU);
  const bool names_cuda = name == "cuda" || (name.starts_with("cuda:") && name.size() > 5 &&
                                             std::all_of(name.begin() + 5, name.end(),
                                                         [](char c) { return c >= '0' && c <= '9'; }));
  if (!names_cuda) return invalid_argument("device is '" + name + "'; allowed: cpu, cuda:N");
#ifdef KVCRUSH_CUDA
  return at::Device(name);
#else
  return invalid_argument("device is '" + name +
                          "', but this build is for the CPU only (configure with -DKVCRUSH_CUDA=ON)");
#endif
}

Status check_config(const EngineConfig& config) {
  const auto at_least = [](const char* field, std::int64_t value, std::int64_t least) {
    if (value >= least) return Status();
    return invalid_argument(std::string(field) + " is " + std::to_string(value) + "; allowed: at least " +
                            std::to_string(least));
  };
  KVCRUSH_RETURN_IF_ERROR(at_least("max_running_sequences", config.max_running_sequences, 1));
  KVCRUSH_RETURN_IF_ERROR(at_least("max_waiting_sequences", config.max_waiting_sequences, 1));
  KVCRUSH_RETURN_IF_ERROR(
      at_least("max_batch_tokens", config.max_batch_tokens, config.max_running_sequences));
  KVCRUSH_RETURN_IF_ERROR(at_least("max_context_tokens", config.max_context_tokens, 0));
  return at_least("num_threads", config.num_threads, 0);
}

Result<EngineLimits> derive_limits(const ModelConfig& model, const EngineConfig& config,
                                   const KvLayout& layout, KvDtype dtype) {
  EngineLimits limits;
  limits.max_context_tokens =
      config.max_context_tokens == 0 ? model.max_context_tokens : config.max_context_tokens;
  if (limits.max_context_tokens > model.max_context_tokens) {
    return invalid_argument("max_context_tokens is " + std::to_string(limits.max_context_tokens) +
                            "; allowed: at most " + std::to_string(model.max_context_tokens) +
                            ", the model's");
  }
  limits.block_size_tokens = cpu::tokens_per_block(dtype, model.head_dim);
  limits.block_bytes = layout.block_bytes();
  limits.num_blocks = std::min<std::int64_t>(
      static_cast<std::int64_t>(config.kv_memory_bytes) / limits.block_bytes, std::int64_t{1} << 30);
  if (limits.num_blocks < model.num_layers) {
    return invalid_argument("kv_memory_bytes is " + std::to_string(config.kv_memory_bytes) +
                            "; allowed: at least " + std::to_string(limits.block_bytes * model.num_layers) +
                            ", one block for each layer");
  }
  limits.max_cached_tokens = static_cast<int>(std::min<std::int64_t>(
      limits.num_blocks / model.num_layers * limits.block_size_tokens, limits.max_context_tokens));
  return limits;
}

Status check_heads(const ModelConfig& model) {
  const int group = model.num_heads / model.num_kv_heads;
  if (model.head_dim % 16 == 0 && model.head_dim <= cpu::kMaxHeadDim && group <= cpu::kMaxGroup) return {};
  return invalid_argument("head_dim is " + std::to_string(model.head_dim) + " with " + std::to_string(group) +
                          " query heads per KV head; allowed: a multiple of 16 up to 256, and at most 16");
}

}  // namespace kvcrush
