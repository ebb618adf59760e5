// What tells the model families apart, one row each. Loader and decoder know no family by name: they follow
// these traits. A family of the same kind is another row, and a row of the test matrix
// (tests/oracle/families).
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "engine/model/model_config.h"

namespace kvcrush {

enum class Presence {
  kNever,
  kConfigured,  // config.json says; in a GGUF file the tensors themselves
  kAlways,
};

// Which layers see only a window of the newest tokens, where config.json has no `layer_types`.
enum class WindowLayers {
  kNone,
  kAll,
  kFromConfiguredLayer,  // `max_window_layers` and after, if `use_sliding_window`
  kAllButEveryNth,       // layer i sees everything where i + 1 is a multiple of `sliding_window_pattern`
};

struct Architecture {
  std::string_view name;         // ModelConfig::architecture
  std::string_view families;     // for people
  std::string_view gguf_name;    // general.architecture
  std::string_view model_type;   // of config.json
  std::string_view model_class;  // one that config.json's `architectures` must list
  // Fields that transformers assumes where config.json is silent, as a JSON object.
  std::string_view config_defaults;

  Activation activation = Activation::kSilu;
  Presence qkv_bias = Presence::kNever;
  bool output_bias = false;          // where q, k and v have a bias by configuration, so has the output
  bool qk_norm = false;              // RMS norm of each query and key head, before RoPE
  bool output_norms = false;         // RMS norms of attention's and the MLP's output as well
  bool scaled_embedding = false;     // by sqrt(hidden size)
  bool norms_from_one = false;       // safetensors hold what norm weights exceed 1 by; GGUF files the weights
  bool fused_projections = false;    // q, k, v are one tensor, gate and up another
  bool interleaved_in_gguf = false;  // GGUF files store the pairs that RoPE rotates side by side
  // Of every fourth layer, if so, unless config.json's `no_rope_layers` says otherwise (0: none).
  bool unrotated_layers = false;
  WindowLayers windows = WindowLayers::kNone;
};

std::span<const Architecture> architectures();
// Null: there is none of this name.
const Architecture* architecture_of_gguf(std::string_view name);
const Architecture* architecture_of_model_type(std::string_view model_type);
// Every name once, separated by commas: for errors.
std::string known_gguf_architectures();
std::string known_model_types();

// The table as Markdown, one row for each family: what README shows.
std::string architecture_table();

}  // namespace kvcrush
