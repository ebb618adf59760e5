#include "engine/model/batch_builder.h"

namespace kvcrush {

void build_batch(const StepPlan& plan, StepBatch& batch) {
  batch.token_ids.clear();
  batch.positions.clear();
  batch.rope_rows.clear();
  batch.query_starts.clear();
  batch.logit_rows.clear();
  batch.chunks.assign(plan.chunks.begin(), plan.chunks.end());
  for (const ScheduledChunk& chunk : plan.chunks) {
    batch.query_starts.push_back(batch.num_tokens());
    const Sequence& sequence = *chunk.sequence;
    const auto add_position = [&](int position) {
      batch.positions.push_back(position);
      batch.rope_rows.push_back(sequence.first_rope_row + position);
    };
    for (int b = 0; b < chunk.num_branches; ++b) {
      batch.token_ids.push_back(sequence.lookahead.at(b, chunk.first_token - sequence.num_prompt_tokens));
      add_position(chunk.first_token);
    }
    for (int i = 0; i < chunk.num_tokens && !chunk.is_lookahead(); ++i) {
      batch.token_ids.push_back(sequence.token_at(chunk.first_token + i));
      add_position(chunk.first_token + i);
    }
    for (int row = batch.num_tokens() - chunk.num_logit_rows; row < batch.num_tokens(); ++row)
      batch.logit_rows.push_back(row);
  }
}

std::span<const PagedSequence> StepBatch::paged_sequences(int layer) {
  paged.clear();
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const ScheduledChunk& chunk = chunks[i];
    PagedSequence& sequence = paged.emplace_back();
    sequence.query_start = query_starts[i];
    sequence.num_queries = chunk.num_tokens;
    sequence.cache = chunk.sequence->cache.layer(layer).cached();
    if (!chunk.is_lookahead()) continue;
    sequence.num_branches = chunk.num_branches;
    sequence.num_branch_slots =
        chunk.num_branches * (chunk.first_token + 1 - chunk.sequence->num_prompt_tokens);
  }
  return paged;
}

}  // namespace kvcrush
