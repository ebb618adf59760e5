// Sequences in a scheduler without a model.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "engine/scheduler/scheduler.h"

namespace kvcrush::testing {

inline constexpr int kBlockTokens = 16;
inline constexpr int kLayers = 2;
inline constexpr cpu::KvFormat kFormat{
    .tail = KvDtype::kF32, .packed = KvDtype::kF32, .tail_tokens_per_block = kBlockTokens};

class SchedulerTest : public ::testing::Test {
 protected:
  Sequence* add(Scheduler& scheduler, BlockPool& pool, int prompt,
                std::optional<CompressionParams> compression = {}, int priority = 0) {
    auto sequence = std::make_unique<Sequence>(SequenceCache(pool, kLayers, kFormat, windows_));
    sequence->id = next_id_++;
    sequence->priority = priority;
    sequence->token_ids.assign(prompt, 1);
    sequence->num_prompt_tokens = prompt;
    sequence->policy.compression = compression;
    sequence->schedule = CacheSchedule(sequence->policy, kFormat, prompt, kLayers, windows_);
    Sequence* raw = sequence.get();
    scheduler.add(std::move(sequence));
    return raw;
  }

  // What the engine does after a step: count, prune, append the sampled token.
  static void apply(const StepPlan& plan) {
    for (const ScheduledChunk& chunk : plan.chunks) {
      Sequence& sequence = *chunk.sequence;
      EXPECT_EQ(chunk.first_token, sequence.num_computed_tokens);
      sequence.num_computed_tokens += chunk.num_tokens;
      if (chunk.settling) {
        for (int layer = 0; layer < kLayers; ++layer) {
          sequence.cache.shrink(layer, 0, sequence.schedule.budget_tokens());
        }
      }
      if (chunk.num_logit_rows > 0) sequence.token_ids.push_back(2);
    }
  }

  static CompressionParams budget(int tokens, PruneWhen when = PruneWhen::kAfterPrompt) {
    CompressionParams params;
    params.budget_tokens = tokens;
    params.when = when;
    return params;
  }

  std::vector<int> windows_;  // of the layers of what is added; empty: they see everything
  SequenceId next_id_ = 1;
};

}  // namespace kvcrush::testing
