// KVCrush on one sequence, all of it on the GPU: read, select, compact, without waiting for it. Counts are
// known to the host beforehand, so the blocks are free at once.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "engine/gpu/device_tables.h"
#include "engine/gpu/gpu_observation.h"
#include "engine/kernels/cuda/observe.h"
#include "engine/kernels/cuda/place_tokens.h"
#include "engine/kernels/cuda/rewrite.h"
#include "engine/kernels/cuda/select.h"

namespace kvcrush {

// What `sequence` keeps of the source's tokens, put into `targets`: in place, or into a fork's own blocks.
struct GpuPrune {
  const Sequence& source;    // whose tokens they are
  const Sequence& sequence;  // whose policy and budgets count
  bool prunes = false;       // else all tokens stay, and are packed
  ObservedQueries queries;
  GpuObservation* observation = nullptr;  // of the source; null where the policy needs none
  GpuObservation* sums = nullptr;         // attention sums that follow the tokens; null: none
  std::vector<cpu::CachedLayer> targets;  // [num_layers], device addresses
};

enum class PruneStage { kScore, kSelect, kCompact };
using OnPruneStage = std::function<void(PruneStage)>;

class GpuPruner {
 public:
  // max_workspace_bytes: of readings and selection at a time; layers are taken in groups that keep to it, one
  // by one if need be.
  GpuPruner(const HeadLayout& heads, int num_layers, std::int64_t max_workspace_bytes, GpuRuntime& runtime);

  // Stages the work of one prune; launch() starts it once the staging was uploaded. By layer: the positions
  // of the slots that stay (DeviceTables::place), undefined where the layer has no window or loses nothing.
  std::vector<at::Tensor> prepare(const GpuPrune& prune, const cpu::KvPool& pool, const DeviceTables& tables,
                                  Staging& staging);
  // All that was prepared since the last launch, in order. on_stage is called after what belongs to a stage:
  // all three, group of layers by group.
  void launch(const cpu::KvPool& pool, const OnPruneStage& on_stage);
  // Forgets what was prepared and will not be launched.
  void discard() { works_.clear(); }

 private:
  // A group of layers.
  struct Work {
    int first_layer = 0;
    int num_layers = 0;
    int max_cached = 0;
    const cuda::ProbabilityJob* probabilities = nullptr;  // each [num_layers]; null: not read
    const cuda::KeyScoreJob* key_scores = nullptr;
    const cuda::ValueNormJob* value_norms = nullptr;
    const cuda::SelectJob* selections = nullptr;  // null: all tokens stay
    cuda::SelectLaunch select = {};
    const cuda::PlaceJob* places = nullptr;  // [num_places]
    int num_places = 0;
    const cuda::RewriteJob* rewrites = nullptr;
    at::Tensor workspace = {};  // keeps it alive
    float* key_workspace = nullptr;
    GpuObservation* sums = nullptr;
    std::vector<at::Tensor> kept = {};                            // by layer, int32 [num_sets, num_kept]
    std::vector<std::pair<float*, at::Tensor>> copied_sums = {};  // h2o: where a layer's sums are read from
  };
  std::vector<cuda::SelectJob> prepare_selection(const GpuPrune& prune, const cpu::KvPool& pool,
                                                 std::vector<cuda::RewriteJob>& rewrites, Work& work);
  // Positions of the slots that stay, by layer; see prepare().
  std::vector<at::Tensor> prepare_places(const std::vector<cuda::RewriteJob>& rewrites,
                                         const std::vector<cuda::SelectJob>& selections, Staging& staging,
                                         Work& work) const;
  void prepare_readings(const GpuPrune& prune, const std::vector<cuda::RewriteJob>& rewrites,
                        const std::vector<cuda::SelectJob>& selections, Staging& staging, Work& work);
  const std::int32_t* all_slots(int count);

  HeadLayout heads_;
  int num_layers_;
  std::int64_t max_workspace_bytes_;
  GpuRuntime& runtime_;
  at::Tensor workspace_;
  at::Tensor all_slots_;  // int32 0, 1, 2, ...
  std::vector<Work> works_;
};

}  // namespace kvcrush
