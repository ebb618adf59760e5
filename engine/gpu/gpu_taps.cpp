#include "engine/gpu/gpu_taps.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace kvcrush {

namespace {

// A trunk shows its children the prompt, not the continuation that it runs over.
bool observes(const ScheduledChunk& chunk) {
  const Sequence& sequence = *chunk.sequence;
  return sequence.kind != SequenceKind::kTrunk || chunk.first_token < sequence.num_prompt_tokens ||
         chunk.is_lookahead();
}

void add_copies(const ScheduledChunk& chunk, int first_row, const GpuObservation& observation,
                std::vector<cuda::QueryCopy>& copies) {
  const int ring_rows = observation.ring_rows();
  const auto add = [&](int row, int position) {
    copies.push_back({.queries = observation.queries(0).data_ptr(),
                      .row_stats = observation.stats(0).data_ptr<float>(),
                      .source_row = first_row + row,
                      .ring_row = position % ring_rows,
                      .ring_rows = ring_rows});
  };
  if (chunk.is_lookahead()) {  // branch after branch behind the prompt
    for (int b = 0; b < chunk.num_branches; ++b)
      add(b, chunk.first_token + b * chunk.sequence->lookahead.shape.tokens);
    return;
  }
  for (int i = std::max(0, chunk.num_tokens - ring_rows); i < chunk.num_tokens; ++i)
    add(i, chunk.first_token + i);
}

}  // namespace

void GpuTaps::prepare(const GpuBatch& batch, const StepPlan& plan, const DeviceTables& tables,
                      std::unordered_map<SequenceId, GpuObservation>& observations,
                      cuda::ActivationType activations, const at::Tensor& qkv, const at::Tensor& row_stats,
                      Staging& staging, int num_padded) {
  std::vector<cuda::QueryCopy> copies;
  std::vector<std::size_t> summed;  // chunks
  for (std::size_t i = 0; i < plan.chunks.size(); ++i) {
    const ScheduledChunk& chunk = plan.chunks[i];
    const auto it = observations.find(chunk.sequence_id);
    if (it == observations.end() || !observes(chunk)) continue;
    if (it->second.needs().num_queries > 0) add_copies(chunk, batch.query_starts[i], it->second, copies);
    if (it->second.needs().attention_sums && !chunk.is_lookahead()) summed.push_back(i);
  }
  if (!copies.empty()) copies.resize(std::max(copies.size(), static_cast<std::size_t>(num_padded)));
  std::vector<cuda::ProbabilityJob> jobs;  // layer by layer
  int max_cached = 0;
  for (int layer = 0; layer < num_layers_; ++layer) {
    for (const std::size_t i : summed) {
      const ScheduledChunk& chunk = plan.chunks[i];
      const cpu::CachedLayer cache = tables.cached(*chunk.sequence, layer);
      GpuObservation& observation = observations.at(chunk.sequence_id);
      observation.drop_sums(layer, chunk.sequence->cache.num_dropped(layer));
      const at::Tensor sums = observation.sums(layer, cache.num_cached);
      max_cached = std::max(max_cached, cache.num_cached);
      const std::int64_t first_row = batch.query_starts[i];
      const std::int64_t offset = first_row * qkv.stride(0) * static_cast<std::int64_t>(qkv.element_size());
      jobs.push_back({.cache = cache,
                      .queries = static_cast<const std::byte*>(qkv.const_data_ptr()) + offset,
                      .row_stats = row_stats.const_data_ptr<float>() + first_row * 2 * heads_.num_heads,
                      .num_queries = chunk.num_tokens,
                      .num_summed = cache.num_cached,  // new slots are zero
                      .sums = sums.data_ptr<float>(),
                      .sums_stride = sums.stride(0)});
    }
  }
  record_ = {.copies = staging.add(copies),
             .num_copies = static_cast<int>(copies.size()),
             .num_heads = heads_.num_heads,
             .head_dim = heads_.head_dim,
             .activations = activations,
             .qkv = qkv.const_data_ptr(),
             .qkv_stride = qkv.stride(0),
             .row_stats = row_stats.const_data_ptr<float>()};
  // A padded step is recorded, and serves longer caches too.
  if (num_padded > 0) max_cached = static_cast<int>(std::bit_ceil(static_cast<unsigned>(max_cached)));
  sums_ = {.jobs = staging.add(jobs),
           .num_jobs = static_cast<int>(jobs.size()) / num_layers_,
           .max_cached = max_cached,
           .pool = {},
           .num_heads = heads_.num_heads,
           .scale = 1.0F / std::sqrt(static_cast<float>(heads_.head_dim)),
           .queries = activations,
           .query_stride = qkv.stride(0)};
}

void GpuTaps::launch(int layer, const cpu::KvPool& pool) const {
  cuda::RecordCall record = record_;
  record.layer = layer;
  cuda::record_queries(record, runtime_.stream());
  cuda::ProbabilityCall sums = sums_;
  sums.jobs += static_cast<std::ptrdiff_t>(layer) * sums.num_jobs;
  sums.pool = pool;
  cuda::probability_sums(sums, runtime_.stream());
}

}  // namespace kvcrush
