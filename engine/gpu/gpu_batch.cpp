#include "engine/gpu/gpu_batch.h"

#include <algorithm>

#include "engine/model/batch_builder.h"

namespace kvcrush {

namespace {

// By the room that a tile takes in shared memory; float16 needs none beside the tile itself.
int tile_rank(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kF16:
      return 0;
    case KvDtype::kInt4:
      return 1;
    case KvDtype::kInt8:
      return 2;
    case KvDtype::kBF16:
      return 3;
    case KvDtype::kF32:
      break;
  }
  return 4;
}

KvDtype widest_dtype(const StepPlan& plan) {
  KvDtype widest = KvDtype::kF16;
  for (const ScheduledChunk& chunk : plan.chunks) {
    const cpu::KvFormat& format = chunk.sequence->cache.format();
    for (const KvDtype dtype :
         {format.tail, format.packed_tokens_per_block > 0 ? format.packed : format.tail}) {
      if (tile_rank(dtype) > tile_rank(widest)) widest = dtype;
    }
  }
  return widest;
}

}  // namespace

GpuBatch make_gpu_batch(const StepPlan& plan, const HeadLayout& heads, int num_layers, int num_block_slots,
                        const DeviceTables& tables, Staging& staging) {
  StepBatch flat;
  build_batch(plan, flat);
  std::vector<std::int32_t> sequence_of_token;
  for (std::size_t i = 0; i < flat.chunks.size(); ++i)
    sequence_of_token.insert(sequence_of_token.end(), static_cast<std::size_t>(flat.chunks[i].num_tokens),
                             static_cast<std::int32_t>(i));
  std::vector<cpu::AttentionSequence> all;  // [layers, chunks]
  std::vector<cpu::AttentionSequence> longest;
  for (int layer = 0; layer < num_layers; ++layer) {
    const std::span<const PagedSequence> paged = flat.paged_sequences(layer);
    for (std::size_t i = 0; i < paged.size(); ++i) {
      all.push_back(paged[i]);
      all.back().cache = tables.cached(*flat.chunks[i].sequence, layer);
      if (layer == 0) longest.push_back(paged[i]);
      if (paged[i].cache.num_cached > longest[i].cache.num_cached) longest[i] = paged[i];
    }
  }
  GpuBatch batch;
  batch.num_tokens = flat.num_tokens();
  batch.num_logit_rows = static_cast<int>(flat.logit_rows.size());
  batch.num_sequences = static_cast<int>(flat.chunks.size());
  batch.token_ids = staging.add(flat.token_ids);
  batch.positions = staging.add(flat.positions);
  batch.sequence_of_token = staging.add(sequence_of_token);
  batch.logit_rows = staging.add(flat.logit_rows);
  batch.sequences = staging.add(all);
  batch.plan = cuda::plan_attention(longest, heads.num_heads / heads.num_kv_heads, heads.num_kv_heads,
                                    heads.head_dim, num_block_slots);
  batch.decode = staging.add(batch.plan.decode);
  batch.prefill = staging.add(batch.plan.prefill);
  batch.widest = widest_dtype(plan);
  batch.query_starts = std::move(flat.query_starts);
  return batch;
}

}  // namespace kvcrush
