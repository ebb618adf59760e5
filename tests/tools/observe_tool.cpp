// Runs a model over a prompt and writes what KVCrush sees of it: usage: observe_tool MODEL WINDOW LAYER... <
// token ids Per layer, to stdout, native endian: int32 {num_heads, num_kv_heads, head_dim, num_tokens,
// window}, then float32 queries [window, num_heads, head_dim], keys [num_kv_heads, num_tokens, head_dim],
// probability sums [num_heads, num_tokens].
#include <ATen/ATen.h>

#include <cmath>
#include <cstdio>
#include <iostream>
#include <iterator>

#include "engine/loader/model_file.h"
#include "engine/model/decoder.h"
#include "engine/model/query_ring.h"

namespace kvcrush {
namespace {

void write(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.to(at::kFloat).contiguous();
  std::fwrite(dense.const_data_ptr(), sizeof(float), dense.numel(), stdout);
}

void write_layer(int layer, const BlockTable& table, const QueryRing& ring, const KvStorage& kv,
                 const HeadLayout& heads) {
  const int num_tokens = table.num_cached_tokens();
  const std::int32_t header[] = {heads.num_heads, heads.num_kv_heads, heads.head_dim, num_tokens,
                                 ring.window_tokens()};
  std::fwrite(header, sizeof header, 1, stdout);
  write(ring.gather(layer, num_tokens));
  const std::span<const BlockId> blocks = table.blocks();
  const at::Tensor ids = at::tensor(at::ArrayRef<BlockId>(blocks.data(), blocks.size()), at::kInt);
  write(kv.keys().index_select(0, ids).permute({1, 0, 3, 2}).flatten(1, 2).narrow(1, 0, num_tokens));

  const std::vector<const float*> rows = ring.rows(layer, num_tokens);
  const int group = heads.num_heads / heads.num_kv_heads;
  std::vector<float> scratch(cpu::observation_scratch_floats(num_tokens));
  at::Tensor sums = at::empty({heads.num_heads, num_tokens}, at::kFloat);
  for (int h = 0; h < heads.num_kv_heads; ++h) {
    cpu::cpu_kernels().observation_scores(kv.cpu_pool(), blocks.data(), num_tokens, h, group, rows.data(),
                                          ring.window_tokens(),
                                          1.0F / std::sqrt(static_cast<float>(heads.head_dim)),
                                          scratch.data(), sums[h * group].data_ptr<float>());
  }
  write(sums);
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

  BlockPool pool((num_tokens / cpu::kBlockTokens + 1) * config.num_layers, cpu::kBlockTokens);
  KvStorage kv({.num_kv_heads = config.num_kv_heads, .head_dim = config.head_dim}, pool.num_blocks(),
               at::kCPU);
  Decoder decoder(config, load_weights(model, num_tokens, at::kCPU), num_tokens, at::kCPU);
  Sequence sequence{SequenceCache(pool, config.num_layers)};
  sequence.token_ids = prompt;
  if (!sequence.cache.try_extend(num_tokens)) return 1;
  StepPlan plan;
  plan.chunks.push_back({.sequence = &sequence, .first_token = 0, .num_tokens = num_tokens});
  StepBatch batch;
  build_batch(plan, batch);
  QueryRing ring(config.num_layers, window, config.num_heads * config.head_dim, at::kCPU);
  decoder.forward(batch, kv,
                  [&](int layer, const at::Tensor& qkv) { ring.record(layer, qkv, 0, num_tokens, 0); });
  for (int layer : layers) write_layer(layer, sequence.cache.layer(layer), ring, kv, decoder.heads());
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
