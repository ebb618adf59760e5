#include "engine/pool_limits.h"

#include <algorithm>
#include <string>

#include "engine/kernels/cpu/cpu_kernels.h"

namespace kvcrush {

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
  // The table of rotations is as long as the context, and a model file may claim any.
  constexpr std::int64_t kMaxTableBytes = std::int64_t{2} << 30;
  const std::int64_t most_tokens = kMaxTableBytes / (std::int64_t{model.head_dim} * 4);
  if (limits.max_context_tokens > most_tokens) {
    return invalid_argument("max_context_tokens is " + std::to_string(limits.max_context_tokens) +
                            (config.max_context_tokens == 0 ? ", the model's" : "") + "; allowed: at most " +
                            std::to_string(most_tokens) + " with a head_dim of " +
                            std::to_string(model.head_dim));
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
