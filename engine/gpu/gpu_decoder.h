// The Llama-family forward pass on a GPU's kernels, all of them on one stream: no operation is ATen's, and
// once its buffers have grown to the largest batch, a step allocates nothing.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "engine/gpu/gpu_batch.h"
#include "engine/gpu/gpu_weights.h"
#include "engine/kernels/cuda/cuda_kernels.h"
#include "engine/model/model_config.h"

namespace kvcrush {

// Called when a layer's attention has left rotated queries in qkv() and statistics in row_stats().
using GpuAttentionTap = std::function<void(int layer)>;

class GpuDecoder {
 public:
  // type: of weights and activations. max_batch_tokens bounds T.
  GpuDecoder(const ModelConfig& config, GpuWeights weights, at::ScalarType type, int max_batch_tokens,
             GpuRuntime& runtime);

  const HeadLayout& heads() const { return heads_; }
  cuda::ActivationType activations() const { return activations_; }
  const at::Tensor& qkv() const { return qkv_; }  // [max_batch_tokens, (Hq + 2 Hkv) D]: query heads first
  const at::Tensor& row_stats() const { return row_stats_; }  // float32 [max_batch_tokens, Hq 2]
  int max_rows() const { return static_cast<int>(hidden_.size(0)); }
  // Makes room for what forward() leaves and needs. True: some of it lies elsewhere than before.
  bool reserve(const GpuBatch& batch);
  // Writes the chunks' K and V into their slots, and logits. After reserve(). Allocates nothing.
  void forward(const GpuBatch& batch, const KvStorage& kv, const GpuAttentionTap& tap);
  // Of the last forward(): [num_rows, vocab] float32 on the device, valid until the next; undefined: no rows.
  at::Tensor logits(int num_rows) const {
    return num_rows == 0 ? at::Tensor() : logits_.narrow(0, 0, num_rows);
  }

 private:
  void attend(const GpuBatch& batch, int layer, const KvStorage& kv, const GpuAttentionTap& tap);
  // What a projection's result in delta_ goes through before it is added to the residual stream.
  struct OutputTerms {
    at::Tensor bias, norm;  // [hidden]; undefined: none
  };
  // hidden += delta_, where terms are given; normed = norm of (the rows row_ids of) it.
  void normalise(const OutputTerms* terms, const at::Tensor& weight, int num_rows,
                 const std::int32_t* row_ids = nullptr);
  void project(const at::Tensor& x, const at::Tensor& weight, at::Tensor& out, int num_rows);
  // activated = activation(gate) * up of normed.
  void project_gated(const at::Tensor& gate_up, int num_rows);

  ModelConfig config_;
  GpuWeights weights_;
  HeadLayout heads_;
  cuda::ActivationType activations_;
  GpuRuntime& runtime_;
  at::Tensor hidden_, row_stats_;                                     // float32, [max_batch_tokens, ...]
  at::Tensor normed_, qkv_, attended_, delta_, gate_up_, activated_;  // activations
  at::Tensor partials_, counters_, logits_;                           // grow to the most seen
};

}  // namespace kvcrush
