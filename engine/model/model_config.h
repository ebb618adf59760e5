// What a decoder-only transformer needs to know of itself. No torch here: the loader fills it, from the
// traits of its architecture (engine/loader/architecture.h) and the numbers of its file.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/core/types.h"

namespace kvcrush {

enum class RopeScalingType { kNone, kLinear, kDynamic, kLlama3, kYarn, kLongRope };

// Rotary embedding of a head's first `rotary_dim` channels: frequencies theta_i = base^(-2i/rotary_dim), then
// scaled as `type` says.
struct RopeConfig {
  double base = 10000.0;
  RopeScalingType type = RopeScalingType::kNone;
  double factor = 1.0;            // all scaled types: context grows by this factor
  int original_max_position = 0;  // tokens the model was trained on (dynamic, llama3, yarn, longrope)
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  bool truncate = true;           // yarn: its ramp begins and ends at whole channels
  double attention_factor = 0.0;  // yarn, longrope: of cosines and sines; 0: as the type's paper has it
  int rotary_dim = 0;             // even; 0: head_dim
  // [rotary_dim / 2] of GGUF's `rope_freqs.weight` or of longrope's short factors; empty: none.
  std::vector<float> frequency_divisors = {};
  // longrope's long factors, of sequences that go past original_max_position.
  std::vector<float> long_frequency_divisors = {};

  bool has_long_positions() const { return !long_frequency_divisors.empty(); }
  // Of a sequence that may grow to so many tokens.
  bool wants_long_positions(int num_tokens) const {
    return has_long_positions() && num_tokens > original_max_position;
  }
  int rotated_channels(int head_dim) const { return rotary_dim == 0 ? head_dim : rotary_dim; }
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
  Activation activation = Activation::kSilu;
  bool qkv_bias = false;
  bool output_bias = false;      // of attention
  bool qk_norm = false;          // each query and key head is normalised before RoPE
  bool output_norms = false;     // attention's and the MLP's output are normalised before they are added
  float embedding_scale = 1.0f;  // of embedded tokens
  float query_scale = 1.0f;      // beside 1 / sqrt(head_dim); the loader has it in the query norm's weights
  RopeConfig rope;
  RopeConfig window_rope;  // of layers with a window, where it is another
  bool has_window_rope = false;
  std::vector<bool> unrotated_layers = {};  // [num_layers]; empty: RoPE in all
  // Tokens that a layer's query sees, its own included; 0: all. Empty: every layer sees all.
  std::vector<int> windows = {};  // [num_layers]

  int window_tokens(int layer) const {
    return windows.empty() ? 0 : windows[static_cast<std::size_t>(layer)];
  }
  bool is_rotated(int layer) const {
    return unrotated_layers.empty() || !unrotated_layers[static_cast<std::size_t>(layer)];
  }
  // The windows that a context of so many tokens ever fills, [num_layers]; empty: none.
  std::vector<int> windows_within(int num_tokens) const {
    std::vector<int> filled = windows;
    for (int& window : filled) window = window < num_tokens ? window : 0;
    const bool any = std::any_of(filled.begin(), filled.end(), [](int window) { return window > 0; });
    return any ? filled : std::vector<int>();
  }
};

}  // namespace kvcrush
