// What policies read of the cache: attention of observed queries, norms of keys and values.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "engine/core/status.h"
#include "engine/kernels/parallel.h"
#include "engine/model/pruner.h"

namespace kvcrush {

namespace {

int num_observed_queries(const CompressionParams& params) {
  if (params.policy == BasePolicy::kSnapKv) return params.observed_queries;
  return params.policy == BasePolicy::kTova ? 1 : 0;
}

bool reads_keys(BasePolicy policy) {
  return policy == BasePolicy::kKNorm || policy == BasePolicy::kKeyDiff;
}

void assign(std::vector<float>& out, const at::Tensor& values) {
  const at::Tensor dense = values.to(at::kCPU).contiguous();
  const float* data = dense.const_data_ptr<float>();
  out.assign(data, data + dense.numel());
}

}  // namespace

void Pruner::read(const CompressionParams& params, const Sequence& source, const Observation* observation,
                  const KvStorage& kv, Readings& readings) {
  KVCRUSH_CHECK(!reads_attention(params.policy) || observation != nullptr);
  const bool fast = use_cpu_kernels(kv.device());
  read_scratch_.resize(
      std::max<std::size_t>(read_scratch_.size(), static_cast<std::size_t>(num_kernel_threads())));
  const auto read_one = [&](std::int64_t layer, int thread) {
    LayerReadings& out = readings[static_cast<std::size_t>(layer)];
    if (params.policy == BasePolicy::kH2o)
      observation->attention_sums(static_cast<int>(layer)).copy_to(out.probability_sums);
    if (fast) {
      read_layer(params, source, observation, kv, static_cast<int>(layer), thread, out);
    } else {
      read_layer_reference(params, source, observation, kv, static_cast<int>(layer), out);
    }
  };
  const auto num_layers = static_cast<std::int64_t>(plans_.size());
  if (fast) {
    parallel_for(num_layers, read_one);
  } else {
    for (std::int64_t layer = 0; layer < num_layers; ++layer) read_one(layer, 0);
  }
}

void Pruner::read_layer(const CompressionParams& params, const Sequence& source,
                        const Observation* observation, const KvStorage& kv, int layer, int thread,
                        LayerReadings& out) {
  const cpu::KvPool pool = kv.cpu_pool();
  const cpu::CachedLayer cache = source.cache.layer(layer).cached();
  const auto num_cached = static_cast<std::size_t>(cache.num_cached);
  const int group = heads_.num_heads / heads_.num_kv_heads;
  std::vector<float>& scratch = read_scratch_[static_cast<std::size_t>(thread)];
  scratch.resize(static_cast<std::size_t>(cpu::probability_scratch_floats()));
  if (const int count = num_observed_queries(params); count > 0) {
    const int end =
        source.kind == SequenceKind::kTrunk ? source.num_prompt_tokens : source.num_computed_tokens;
    const std::vector<const float*> queries = observation->query_rows(layer, count, end);
    const std::vector<const float*> stats = observation->stat_rows(layer, count, end);
    out.probability_sums.assign(static_cast<std::size_t>(heads_.num_heads) * num_cached, 0.0F);
    for (int h = 0; h < heads_.num_kv_heads; ++h) {
      cpu::cpu_kernels().probability_sums(
          pool, cache, h, group, queries.data(), stats.data(), count,
          1.0F / std::sqrt(static_cast<float>(heads_.head_dim)), scratch.data(),
          out.probability_sums.data() + static_cast<std::size_t>(h * group) * num_cached, cache.num_cached);
    }
  }
  if (reads_keys(params.policy)) {
    out.key_scores.resize(static_cast<std::size_t>(heads_.num_kv_heads) * num_cached);
    for (int h = 0; h < heads_.num_kv_heads; ++h) {
      cpu::cpu_kernels().key_scores(pool, cache, h, params.policy == BasePolicy::kKeyDiff, scratch.data(),
                                    out.key_scores.data() + static_cast<std::size_t>(h) * num_cached);
    }
  }
  if (params.value_norm) {
    out.value_norms.resize(static_cast<std::size_t>(heads_.num_heads) * num_cached);
    for (int h = 0; h < heads_.num_kv_heads; ++h) {
      float* const norms = out.value_norms.data() + static_cast<std::size_t>(h * group) * num_cached;
      cpu::cpu_kernels().value_norms(pool, cache, h, scratch.data(), norms);
      for (int g = 1; g < group; ++g)
        std::copy_n(norms, num_cached, norms + static_cast<std::size_t>(g) * num_cached);
    }
  }
}

void Pruner::read_layer_reference(const CompressionParams& params, const Sequence& source,
                                  const Observation* observation, const KvStorage& kv, int layer,
                                  LayerReadings& out) {
  const cpu::CachedLayer cache = source.cache.layer(layer).cached();
  if (const int count = num_observed_queries(params); count > 0) {
    const int end =
        source.kind == SequenceKind::kTrunk ? source.num_prompt_tokens : source.num_computed_tokens;
    assign(out.probability_sums,
           reference::probability_sums(observation->gather_queries(layer, count, end), heads_, cache, kv));
  }
  if (reads_keys(params.policy))
    assign(out.key_scores, reference::key_scores(cache, params.policy == BasePolicy::kKeyDiff, kv));
  if (params.value_norm)
    assign(out.value_norms,
           reference::value_norms(cache, kv).repeat_interleave(heads_.num_heads / heads_.num_kv_heads, 0));
}

}  // namespace kvcrush
