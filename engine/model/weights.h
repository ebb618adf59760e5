// The weights of a decoder, prepared for one device.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/kernels/ops.h"
#include "engine/loader/model_file.h"

namespace kvcrush {

struct LayerWeights {
  at::Tensor input_norm;             // [hidden]
  LinearWeight qkv;                  // [(Hq + 2 Hkv) D, hidden]: q, k and v in one projection
  at::Tensor q_norm, k_norm;         // [D]; undefined: none
  LinearWeight output;               // [hidden, Hq D]
  at::Tensor attention_output_norm;  // [hidden]; undefined: none
  at::Tensor mlp_norm;               // [hidden]
  LinearWeight gate_up;              // [2 intermediate, hidden]
  LinearWeight down;                 // [hidden, intermediate]
  at::Tensor mlp_output_norm;        // [hidden]; undefined: none
};

// Rows of the embedding matrix, converted as they are needed: a vocabulary's worth of float32 would cost more
// memory than the rest of a small model.
class EmbeddingTable {
 public:
  EmbeddingTable(std::shared_ptr<const ModelFile> model, at::Device device);
  // From now on rows come from `packed`, the same matrix, and the file is not touched again.
  void read_from(const cpu::QuantizedMatrix& packed) { packed_ = packed; }
  // rows [ids.size(), hidden]
  void lookup(std::span<const TokenId> ids, at::Tensor& rows) const;

 private:
  std::shared_ptr<const ModelFile> model_;  // keeps the mapping alive
  const WeightView* view_;
  at::Device device_;
  cpu::QuantizedMatrix packed_;  // empty: rows come from the file
  at::Tensor dense_;             // [vocab, hidden] on other devices
};

struct ModelWeights {
  bool quantized = false;  // projections are: arithmetic may be rounded elsewhere, too
  EmbeddingTable embedding;
  std::vector<LayerWeights> layers;
  at::Tensor final_norm;         // [hidden]
  LinearWeight lm_head;          // [vocab, hidden]
  at::Tensor rope_table;         // make_rope_tensor
  at::Tensor window_rope_table;  // of layers with a window; the same where they have no RoPE of their own
};

// The named tensors of a model stacked along their first dimension, float32 on the CPU; names follow
// `prefix`.
at::Tensor read_stacked(const ModelFile& model, const std::string& prefix,
                        std::initializer_list<const char*> names);
// make_rope_table as a tensor [rows, D], float32 on the CPU.
at::Tensor make_rope_tensor(const RopeConfig& rope, int head_dim, int max_context_tokens);

// How projections are kept on the CPU.
enum class WeightStorage {
  kFloat32,
  kAsStored,  // quantised ones in the file's own blocks, where every part of a projection is
};
// Whether kAsStored keeps this model's projections in few bits: those of its first layer decide.
bool keeps_quantized(const ModelFile& model);
ModelWeights load_weights(const std::shared_ptr<const ModelFile>& model, int max_context_tokens,
                          at::Device device, WeightStorage storage);

}  // namespace kvcrush
