#include "engine/executor_factory.h"

#include "engine/gpu/gpu_backend.h"
#include "engine/model/model_runner.h"

namespace kvcrush {

namespace {

std::unique_ptr<ModelExecutor> load_executor(const std::shared_ptr<const ModelFile>& model,
                                             const EngineConfig& config, const EngineLimits& limits,
                                             const KvLayout& layout, const std::string& device) {
  // A lookahead may make a step so many rows larger (Scheduler).
  const int most_rows = config.max_batch_tokens + kMaxLookaheadBranches;
  const auto num_blocks = static_cast<int>(limits.num_blocks);
  if (device == "cpu")
    return std::make_unique<ModelRunner>(
        model->config,
        load_weights(model, limits.max_context_tokens, at::kCPU,
                     config.weight_dtype == "f32" ? WeightStorage::kFloat32 : WeightStorage::kAsStored),
        layout, num_blocks, most_rows, at::Device(at::kCPU));
  return gpu_backend()->make_executor({.model = model,
                                       .device = device,
                                       .weight_dtype = config.weight_dtype,
                                       .kv_layout = layout,
                                       .num_blocks = num_blocks,
                                       .max_context_tokens = limits.max_context_tokens,
                                       .max_batch_tokens = most_rows,
                                       .graphs = config.cuda_graphs});
}

}  // namespace

std::unique_ptr<ModelExecutor> make_executor(const std::shared_ptr<const ModelFile>& model,
                                             const EngineConfig& config, const EngineLimits& limits,
                                             const KvLayout& layout, const std::string& device) {
  std::unique_ptr<ModelExecutor> executor = load_executor(model, config, limits, layout, device);
  // Weights have been packed or copied. Rows of the embedding come again as they are looked up.
  if (model->release_pages) model->release_pages();
  return executor;
}

}  // namespace kvcrush
