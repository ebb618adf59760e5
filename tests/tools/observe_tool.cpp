// Runs a model over a prompt and writes what KVCrush sees of it: usage: observe_tool MODEL WINDOW LAYER... <
// token ids Per layer, to stdout, native endian: int32 {num_heads, num_kv_heads, head_dim, num_tokens,
// window}, then float32 queries [window, num_heads, head_dim], keys [num_kv_heads, num_tokens, head_dim],
// probability sums [num_heads, num_tokens] over the window's queries, and the same over all.
#include <ATen/ATen.h>

#include <cmath>
#include <cstdio>
#include <iostream>
#include <iterator>

#include "engine/loader/model_file.h"
#include "engine/model/decoder.h"
#include "engine/model/observation.h"

namespace kvcrush {
namespace {

void write(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.to(at::kFloat).contiguous();
  std::fwrite(dense.const_data_ptr(), sizeof(float), dense.numel(), stdout);
}

void write_layer(int layer, int window, const BlockTable& table, const Observation& observation,
                 const KvStorage& kv, const HeadLayout& heads) {
  const int num_tokens = table.num_cached_tokens();
  const std::int32_t header[] = {heads.num_heads, heads.num_kv_heads, heads.head_dim, num_tokens, window};
  std::fwrite(header, sizeof header, 1, stdout);
  write(observation.gather_queries(layer, window, num_tokens));
  write(reference::read_cached(table.cached(), kv).first);

  std::vector<const float*> queries;
  std::vector<const float*> stats;
  observation.add_query_rows(layer, window, num_tokens, queries);
  observation.add_stat_rows(layer, window, num_tokens, stats);
  const int group = heads.num_heads / heads.num_kv_heads;
  std::vector<float> scratch(cpu::probability_scratch_floats());
  at::Tensor sums = at::zeros({heads.num_heads, num_tokens}, at::kFloat);
  for (int h = 0; h < heads.num_kv_heads; ++h) {
    cpu::cpu_kernels().probability_sums(kv.cpu_pool(), table.cached(), h, group, queries.data(), stats.data(),
                                        window, /*num_after=*/0,
                                        1.0F / std::sqrt(static_cast<float>(heads.head_dim)), scratch.data(),
                                        sums[h * group].data_ptr<float>(), num_tokens);
  }
  write(sums);
  std::vector<float> accumulated;
  observation.attention_sums(layer).copy_to(accumulated);
  std::fwrite(accumulated.data(), sizeof(float), accumulated.size(), stdout);
}

int run(const std::string& path, int window, const std::vector<int>& layers) {
  Result<ModelFile> file = load_model_file(path);
  if (!file.ok()) {
    std::cerr << file.status().message() << '\n';
    return 1;
  }
  const auto model = std::make_shared<const ModelFile>(std::move(file).value());
  const ModelConfig& config = model->config;
  const std::vector<TokenId> prompt(std::istream_iterator<TokenId>(std::cin), {});
  const auto num_tokens = static_cast<int>(prompt.size());

  BlockPool pool((num_tokens / cpu::kTileTokens + 1) * config.num_layers);
  KvStorage kv({.num_kv_heads = config.num_kv_heads, .head_dim = config.head_dim}, pool.num_blocks(),
               at::kCPU);
  Decoder decoder(config, load_weights(model, num_tokens, at::kCPU, WeightStorage::kFloat32), num_tokens,
                  at::kCPU);
  Sequence sequence{SequenceCache(pool, config.num_layers, make_kv_format(KvDtype::kF32, config.head_dim))};
  sequence.token_ids = prompt;
  if (!sequence.cache.try_extend(num_tokens)) return 1;
  StepPlan plan;
  ScheduledChunk chunk;
  chunk.sequence = &sequence;
  chunk.num_tokens = num_tokens;
  plan.chunks.push_back(chunk);
  StepBatch batch;
  build_batch(plan, batch);
  Observation observation(decoder.heads(), config.num_layers,
                          {.num_queries = window, .lookahead = {}, .attention_sums = true}, at::kCPU);
  decoder.forward(batch, kv, [&](int layer, const at::Tensor& qkv, const at::Tensor& row_stats) {
    observation.record(layer, qkv, row_stats, 0, num_tokens, 0);
    observation.accumulate(layer, qkv, row_stats, 0, num_tokens, sequence.cache.layer(layer).cached(), kv);
  });
  for (int layer : layers)
    write_layer(layer, window, sequence.cache.layer(layer), observation, kv, decoder.heads());
  return 0;
}

}  // namespace
}  // namespace kvcrush

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: observe_tool MODEL WINDOW LAYER... < token ids\n";
    return 2;
  }
  std::vector<int> layers;
  for (int i = 3; i < argc; ++i) layers.push_back(std::stoi(argv[i]));
  return kvcrush::run(argv[1], std::stoi(argv[2]), layers);
}
