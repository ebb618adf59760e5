// A small Llama-shaped model with random weights, made in memory: engine tests run in milliseconds and need
// no file.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/loader/model_file.h"

namespace kvcrush::testing {

inline constexpr int kTinyVocab = 101;

inline std::shared_ptr<const ModelFile> make_tiny_model(int num_layers = 3, int head_dim = 16,
                                                        int hidden_size = 48) {
  struct Storage {
    std::vector<std::vector<float>> tensors;
  };
  auto storage = std::make_shared<Storage>();
  auto model = std::make_shared<ModelFile>();
  ModelConfig& config = model->config;
  config.name = "tiny";
  config.architecture = "llama";
  config.num_layers = num_layers;
  config.hidden_size = hidden_size;
  config.intermediate_size = 80;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = head_dim;
  config.vocab_size = kTinyVocab;
  config.max_context_tokens = 2048;
  config.tied_embeddings = true;
  model->tokenizer.stop_ids = {0};

  std::mt19937_64 engine(7);
  std::normal_distribution<float> normal;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape, float scale, float mean) {
    std::int64_t count = 1;
    for (std::int64_t extent : shape) count *= extent;
    std::vector<float>& data = storage->tensors.emplace_back(count);
    for (float& value : data) value = mean + scale * normal(engine);
    WeightView view;
    view.shape = std::move(shape);
    view.bytes = std::as_bytes(std::span<const float>(data));
    model->weights[name] = view;
  };
  const float qk_scale =
      0.4F * std::sqrt(16.0F / static_cast<float>(head_dim));  // scores of any head_dim alike
  const int q_width = config.num_heads * config.head_dim;
  const int kv_width = config.num_kv_heads * config.head_dim;
  add("embed_tokens", {kTinyVocab, config.hidden_size}, 1.0F, 0.0F);
  add("norm", {config.hidden_size}, 0.1F, 1.0F);
  for (int i = 0; i < config.num_layers; ++i) {
    const std::string prefix = "layers." + std::to_string(i) + ".";
    add(prefix + "input_norm", {config.hidden_size}, 0.1F, 1.0F);
    add(prefix + "q_proj", {q_width, config.hidden_size}, qk_scale, 0.0F);
    add(prefix + "k_proj", {kv_width, config.hidden_size}, qk_scale, 0.0F);
    add(prefix + "v_proj", {kv_width, config.hidden_size}, 0.3F, 0.0F);
    add(prefix + "o_proj", {config.hidden_size, q_width}, 0.2F, 0.0F);
    add(prefix + "mlp_norm", {config.hidden_size}, 0.1F, 1.0F);
    add(prefix + "gate_proj", {config.intermediate_size, config.hidden_size}, 0.3F, 0.0F);
    add(prefix + "up_proj", {config.intermediate_size, config.hidden_size}, 0.3F, 0.0F);
    add(prefix + "down_proj", {config.hidden_size, config.intermediate_size}, 0.2F, 0.0F);
  }
  model->mapping = storage;
  return model;
}

// The same with sliding windows in two of its layers, which rotate by another base.
inline constexpr int kShortWindow = 40;
inline constexpr int kLongWindow = 100;
inline std::shared_ptr<const ModelFile> make_window_model() {
  auto model = std::make_shared<ModelFile>(*make_tiny_model());
  model->config.windows = {kShortWindow, 0, kLongWindow};
  model->config.has_window_rope = true;
  model->config.window_rope.base = 500.0;
  return model;
}

// The tiny model with everything that families differ in: biases, q/k norms, norms of outputs, GELU, a scaled
// embedding, and a window in the first layer, with RoPE of its own.
inline std::shared_ptr<const ModelFile> make_family_model(int num_layers, int head_dim, int window,
                                                          int hidden_size = 48) {
  struct Storage {
    std::shared_ptr<const ModelFile> tiny;
    std::vector<std::vector<float>> vectors;
  };
  auto storage = std::make_shared<Storage>();
  storage->tiny = make_tiny_model(num_layers, head_dim, hidden_size);
  auto model = std::make_shared<ModelFile>(*storage->tiny);
  ModelConfig& config = model->config;
  config.activation = Activation::kGeluTanh;
  config.qkv_bias = config.output_bias = config.qk_norm = config.output_norms = true;
  config.embedding_scale = 1.5F;
  config.windows.assign(static_cast<std::size_t>(num_layers), 0);
  config.windows[0] = window;
  config.unrotated_layers.assign(static_cast<std::size_t>(num_layers), false);
  config.unrotated_layers.back() = true;
  config.has_window_rope = true;
  config.window_rope.base = 500.0;
  std::mt19937_64 engine(11);
  std::normal_distribution<float> normal;
  const auto add = [&](const std::string& name, int size, float mean) {
    std::vector<float>& data = storage->vectors.emplace_back(static_cast<std::size_t>(size));
    for (float& value : data) value = mean + 0.2F * normal(engine);
    WeightView view;
    view.shape = {size};
    view.bytes = std::as_bytes(std::span<const float>(data));
    model->weights[name] = view;
  };
  for (int i = 0; i < num_layers; ++i) {
    const std::string prefix = "layers." + std::to_string(i) + ".";
    add(prefix + "q_bias", config.num_heads * head_dim, 0.0F);
    add(prefix + "k_bias", config.num_kv_heads * head_dim, 0.0F);
    add(prefix + "v_bias", config.num_kv_heads * head_dim, 0.0F);
    add(prefix + "o_bias", config.hidden_size, 0.0F);
    add(prefix + "q_norm", head_dim, 1.0F);
    add(prefix + "k_norm", head_dim, 1.0F);
    add(prefix + "attention_output_norm", config.hidden_size, 1.0F);
    add(prefix + "mlp_output_norm", config.hidden_size, 1.0F);
  }
  model->mapping = storage;
  return model;
}

// The same, but that mostly goes round in circles of ten tokens: 34 follows 33, and 30 follows 39. What it
// attends to throws it off now and then, the less the larger over_layers: a token's own part of the sum
// against what layers add to it.
inline std::shared_ptr<const ModelFile> make_repeating_model(float over_layers = 5.0F) {
  struct Storage {
    std::shared_ptr<const ModelFile> tiny;
    std::vector<float> embeddings, lm_head;
  };
  auto storage = std::make_shared<Storage>();
  storage->tiny = make_tiny_model();
  auto model = std::make_shared<ModelFile>(*storage->tiny);
  const WeightView tied = model->weights.at("embed_tokens");
  const auto width = static_cast<std::size_t>(model->config.hidden_size);
  storage->embeddings.resize(kTinyVocab * width);
  storage->lm_head.resize(kTinyVocab * width);
  read_f32(tied, storage->embeddings);
  for (float& value : storage->embeddings) value *= over_layers;
  for (std::size_t token = 0; token < kTinyVocab - 1; ++token) {
    const std::size_t before = token / 10 * 10 + (token + 9) % 10;
    std::copy_n(storage->embeddings.data() + before * width, width, storage->lm_head.data() + token * width);
  }
  const auto set = [&](const std::string& name, const std::vector<float>& data) {
    WeightView view = tied;
    view.bytes = std::as_bytes(std::span<const float>(data));
    model->weights[name] = view;
  };
  set("embed_tokens", storage->embeddings);
  set("lm_head", storage->lm_head);
  model->config.tied_embeddings = false;
  model->mapping = storage;
  return model;
}

}  // namespace kvcrush::testing
