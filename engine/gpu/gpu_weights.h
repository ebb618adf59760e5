// A Llama-family decoder's weights in a GPU's memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "engine/loader/model_file.h"

namespace kvcrush {

// Matrices are in the type of the activations, [out features, in features]; the rest is float32.
struct GpuLayerWeights {
  at::Tensor input_norm;             // [hidden]
  at::Tensor qkv;                    // [(Hq + 2 Hkv) D, hidden]
  at::Tensor qkv_bias;               // [(Hq + 2 Hkv) D]; undefined: none
  at::Tensor q_norm, k_norm;         // [D]; undefined: none
  at::Tensor output;                 // [hidden, Hq D]
  at::Tensor output_bias;            // [hidden]; undefined: none
  at::Tensor attention_output_norm;  // [hidden]; undefined: none
  at::Tensor mlp_norm;               // [hidden]
  at::Tensor gate_up;                // [2 intermediate, hidden]
  at::Tensor down;                   // [hidden, intermediate]
  at::Tensor mlp_output_norm;        // [hidden]; undefined: none
};

struct GpuWeights {
  at::Tensor embedding;  // [vocab, hidden]
  std::vector<GpuLayerWeights> layers;
  at::Tensor final_norm;         // [hidden]
  at::Tensor lm_head;            // [vocab, hidden]; the embedding itself where the model ties them
  at::Tensor rope_table;         // make_rope_tensor
  at::Tensor window_rope_table;  // of layers with a window
  at::Tensor unrotated_table;    // the same that changes nothing; undefined where every layer has RoPE
};

at::ScalarType gpu_scalar_type(const std::string& weight_dtype);  // "bf16", "f16" or "f32"

GpuWeights load_gpu_weights(const ModelFile& model, int max_context_tokens, at::ScalarType type,
                            at::Device device);

}  // namespace kvcrush
