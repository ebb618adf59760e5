// What policies read of the cache: attention of observed queries, norms of keys and values.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "engine/core/status.h"
#include "engine/kernels/parallel.h"
#include "engine/model/pruner.h"

namespace kvcrush {

namespace {

void assign(std::vector<float>& out, const at::Tensor& values) {
  const at::Tensor dense = values.to(at::kCPU).contiguous();
  const float* data = dense.const_data_ptr<float>();
  out.assign(data, data + dense.numel());
}

}  // namespace

void Pruner::read(const CompressionParams& params, const ObservedQueries& queries,
                  const SequenceCache& source, const Observation* observation, const KvStorage& kv,
                  Readings& readings) {
  KVCRUSH_CHECK(!reads_attention(params.policy) || observation != nullptr);
  const bool fast = use_cpu_kernels(kv.device());
  read_scratch_.resize(
      std::max<std::size_t>(read_scratch_.size(), static_cast<std::size_t>(num_kernel_threads())));
  const auto read_one = [&](std::int64_t index, int thread) {
    LayerReadings& out = readings[static_cast<std::size_t>(index)];
    const auto layer = static_cast<int>(index);
    const cpu::CachedLayer cache = source.layer(layer).cached();
    if (params.policy == BasePolicy::kH2o) observation->attention_sums(layer).copy_to(out.probability_sums);
    if (fast) {
      read_layer(params, queries, cache, observation, kv, layer, thread, out);
    } else {
      read_layer_reference(params, queries, cache, observation, kv, layer, out);
    }
  };
  const auto num_layers = static_cast<std::int64_t>(plans_.size());
  if (fast) {
    parallel_for(num_layers, read_one);
  } else {
    for (std::int64_t layer = 0; layer < num_layers; ++layer) read_one(layer, 0);
  }
}

void Pruner::read_layer(const CompressionParams& params, const ObservedQueries& queries,
                        const cpu::CachedLayer& cache, const Observation* observation, const KvStorage& kv,
                        int layer, int thread, LayerReadings& out) {
  const cpu::KvPool pool = kv.cpu_pool();
  const auto num_cached = static_cast<std::size_t>(cache.num_cached);
  const int group = heads_.num_heads / heads_.num_kv_heads;
  cpu::AlignedFloats& scratch = read_scratch_[static_cast<std::size_t>(thread)];
  scratch.resize(static_cast<std::size_t>(cpu::probability_scratch_floats()));
  if (queries.count > 0) {
    std::vector<const float*> rows;
    std::vector<const float*> stats;
    for (const auto& [count, end] : queries.runs()) {
      observation->add_query_rows(layer, count, end, rows);
      observation->add_stat_rows(layer, count, end, stats);
    }
    out.probability_sums.assign(static_cast<std::size_t>(heads_.num_heads) * num_cached, 0.0F);
    for (int h = 0; h < heads_.num_kv_heads; ++h) {
      cpu::cpu_kernels().probability_sums(
          pool, cache, h, group, rows.data(), stats.data(), queries.total(), queries.lookahead.total(),
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

void Pruner::read_layer_reference(const CompressionParams& params, const ObservedQueries& queries,
                                  const cpu::CachedLayer& cache, const Observation* observation,
                                  const KvStorage& kv, int layer, LayerReadings& out) {
  if (queries.count > 0) {
    std::vector<at::Tensor> rows;
    std::vector<at::Tensor> stats;
    for (const auto& [count, end] : queries.runs()) {
      rows.push_back(observation->gather_queries(layer, count, end));
      stats.push_back(observation->gather_stats(layer, count, end));
    }
    assign(out.probability_sums,
           reference::probability_sums_after(at::cat(rows), at::cat(stats), queries.lookahead.total(), heads_,
                                             cache, kv));
  }
  if (reads_keys(params.policy))
    assign(out.key_scores, reference::key_scores(cache, params.policy == BasePolicy::kKeyDiff, kv));
  if (params.value_norm)
    assign(out.value_norms,
           reference::value_norms(cache, kv).repeat_interleave(heads_.num_heads / heads_.num_kv_heads, 0));
}

}  // namespace kvcrush
