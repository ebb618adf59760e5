#include "engine/model/batch_builder.h"

namespace kvcrush {

void build_batch(const StepPlan& plan, StepBatch& batch) {
  batch.token_ids.clear();
  batch.positions.clear();
  batch.query_starts.clear();
  batch.logit_rows.clear();
  batch.chunks.assign(plan.chunks.begin(), plan.chunks.end());
  for (const ScheduledChunk& chunk : plan.chunks) {
    batch.query_starts.push_back(batch.num_tokens());
    for (int i = chunk.first_token; i < chunk.first_token + chunk.num_tokens; ++i) {
      batch.token_ids.push_back(chunk.sequence->token_at(i));
      batch.positions.push_back(i);
    }
    for (int row = batch.num_tokens() - chunk.num_logit_rows; row < batch.num_tokens(); ++row)
      batch.logit_rows.push_back(row);
  }
}

std::span<const PagedSequence> StepBatch::paged_sequences(int layer) {
  paged.clear();
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const BlockTable& table = chunks[i].sequence->cache.layer(layer);
    paged.push_back(
        {.query_start = query_starts[i], .num_queries = chunks[i].num_tokens, .cache = table.cached()});
  }
  return paged;
}

}  // namespace kvcrush
