// What a decoder-only transformer of the Llama family needs to know of itself. No torch here: the loader
// fills it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvcrush {

enum class RopeScalingType { kNone, kLinear, kLlama3, kYarn };

// Rotary embedding: frequencies theta_i = base^(-2i/head_dim), then scaled as `type` says.
struct RopeConfig {
  double base = 10000.0;
  RopeScalingType type = RopeScalingType::kNone;
  double factor = 1.0;            // all scaled types: context grows by this factor
  int original_max_position = 0;  // tokens the model was trained on (llama3, yarn)
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  double attention_factor = 0.0;  // yarn; 0: 0.1 ln(factor) + 1
  std::vector<float> frequency_divisors =
      {};  // [head_dim / 2] from GGUF `rope_freqs.weight`; empty when absent
};

struct ModelConfig {
  std::string name;
  std::string architecture;  // "llama"
  int num_layers = 0;
  int hidden_size = 0;
  int intermediate_size = 0;
  int num_heads = 0;     // query heads
  int num_kv_heads = 0;  // divides num_heads
  int head_dim = 0;
  int vocab_size = 0;
  int max_context_tokens = 0;
  float rms_norm_eps = 1e-5f;
  bool tied_embeddings = false;  // lm_head is the embedding matrix
  RopeConfig rope;
};

}  // namespace kvcrush
