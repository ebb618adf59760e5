// Chooses tokens from logits in device memory; only tokens and the log-probabilities asked for come back.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <unordered_map>
#include <vector>

#include "engine/gpu/staging.h"
#include "engine/kernels/cuda/sampling.h"
#include "engine/model/model_executor.h"

namespace kvcrush {

class GpuSampler {
 public:
  GpuSampler(int vocab_size, GpuRuntime& runtime);

  // logits: float32 [rows, vocab] on the device; job i reads row jobs[i].row == i, and overwrites some of it.
  // `staging` was started.
  std::vector<SampleResult> sample(std::span<const SampleJob> jobs, const at::Tensor& logits,
                                   Staging& staging);
  void forget(SequenceId id) { seen_.erase(id); }

 private:
  // What a sequence with penalties has seen, on the device.
  struct Seen {
    at::Tensor slots;
    cuda::SeenTokens table;
    int num_observed = 0;  // of the sequence's tokens
  };
  // Notes tokens that came since the last time; `updates` carry them out.
  cuda::SeenTokens observe(const Sequence& sequence, Staging& staging,
                           std::vector<cuda::SeenUpdate>& updates);

  int vocab_size_;
  GpuRuntime& runtime_;
  std::unordered_map<SequenceId, Seen> seen_;
};

}  // namespace kvcrush
