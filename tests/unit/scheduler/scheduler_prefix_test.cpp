// Prefixes of layers with sliding windows in the scheduler's sums.
#include <map>
#include <random>

#include "tests/unit/scheduler/scheduler_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class WindowSchedulerTest : public SchedulerTest {
 protected:
  WindowSchedulerTest() { windows_ = {40, 0}; }

  Sequence* add_sharing(Scheduler& scheduler, BlockPool& pool, int prompt,
                        std::optional<CompressionParams> compression = {}) {
    Sequence* sequence = add(scheduler, pool, prompt, compression);
    sequence->prefix.looks_up = sequence->prefix.shares = true;
    return sequence;
  }
  static void share(Sequence& sequence, PrefixCache& prefixes, int num_tokens) {
    if (sequence.prefix.shares && sequence.cache.is_whole())
      sequence.cache.share(prefixes, sequence.prefix.scope, sequence.shareable_tokens(num_tokens));
  }
  static void settle(Sequence& sequence, const Settling& settling) {
    std::vector<SequenceCache::LayerShape> shapes;
    for (int layer = 0; layer < kLayers; ++layer)
      shapes.push_back(
          sequence.schedule.settled_shape(layer, settling, 0, sequence.cache.layer(layer).num_tail_tokens()));
    auto targets = sequence.cache.rewrite_targets(shapes);
    sequence.cache.finish_rewrite(shapes, std::move(targets));
    for (int layer = 0; layer < kLayers; ++layer) sequence.cache.place(layer, nullptr);
  }
  // What the engine does after a step.
  static void apply_sharing(const StepPlan& plan, PrefixCache& prefixes) {
    for (const ScheduledChunk& chunk : plan.chunks) {
      Sequence& sequence = *chunk.sequence;
      ASSERT_EQ(chunk.first_token, sequence.num_computed_tokens);
      sequence.num_computed_tokens += chunk.num_tokens;
      if (chunk.first_token < sequence.num_prompt_tokens || sequence.shares_answer())
        share(sequence, prefixes, sequence.num_computed_tokens);
      if (chunk.num_logit_rows > 0) sequence.token_ids.push_back(2);
      sequence.cache.drop_past_windows(0, 1);
      if (chunk.settling) settle(sequence, chunk.settling);
    }
  }
};

TEST_F(WindowSchedulerTest, WhatWindowsPassedIsFreeAndAHitIsCounted) {
  BlockPool pool(100);
  PrefixCache prefixes(pool, kLayers, windows_);
  Scheduler scheduler({.max_batch_tokens = 512, .max_running_sequences = 8}, pool, prefixes);
  Sequence* first = add_sharing(scheduler, pool, 800);
  while (first->num_output_tokens() == 0) apply_sharing(scheduler.plan(), prefixes);
  EXPECT_EQ(pool.num_used(), 50 + 3);
  EXPECT_EQ(prefixes.num_idle_blocks(), 47);
  // It takes 50 blocks and up to 36 of the window's layer, beside which 47 are free; but it has 49 and 3.
  Sequence* second = add_sharing(scheduler, pool, 800);
  const StepPlan plan = scheduler.plan();
  ASSERT_EQ(plan.prefix_lookups.size(), 1U);
  EXPECT_EQ(second->prefix.num_hit_tokens, 784);
  EXPECT_EQ(plan.num_prefill_tokens, 16);
  EXPECT_EQ(second->cache.num_blocks(), 50 + 4);
  EXPECT_EQ(second->cache.num_blocks_held_by_others(), 49 + 2);
}

// Random load of prompts that begin alike on a small pool: every sequence finishes, spares suffice for every
// rewrite, and nothing is lost.
TEST_F(WindowSchedulerTest, RandomLoadThatSharesAlwaysFinishes) {
  int num_hits = 0;
  int num_preemptions = 0;
  for (int seed = 0; seed < 30; ++seed) {
    std::mt19937 engine(static_cast<unsigned>(seed));
    BlockPool pool(12 * kLayers);
    PrefixCache prefixes(pool, kLayers, windows_);
    Scheduler scheduler({.max_batch_tokens = 48, .max_running_sequences = 6}, pool, prefixes);
    std::map<Sequence*, int> wanted;
    int unfinished = 0;
    for (int step = 0; step < 5000 && (step < 40 || unfinished > 0); ++step) {
      scheduler.set_swap_costs({.max_blocks = seed % 3 * 20, .seconds_per_block = 1, .seconds_per_token = 1});
      if (step < 40) {
        const std::optional<CompressionParams> compression =
            engine() % 2 == 0 ? std::optional(budget(36 + static_cast<int>(engine() % 30))) : std::nullopt;
        Sequence* sequence = add_sharing(scheduler, pool, 1 + static_cast<int>(engine() % 120), compression);
        wanted[sequence] = 1 + static_cast<int>(engine() % 60);
        ++unfinished;
      }
      const StepPlan plan = scheduler.plan();
      ASSERT_TRUE(!plan.chunks.empty() || scheduler.idle() || !plan.preemptions.empty() ||
                  !plan.swap_ins.empty());
      num_preemptions += static_cast<int>(plan.preemptions.size());
      for (const Sequence* sequence : plan.prefix_lookups)
        num_hits += sequence->prefix.num_hit_tokens > 0 ? 1 : 0;
      ASSERT_NO_FATAL_FAILURE(apply_sharing(plan, prefixes));
      for (const ScheduledChunk& chunk : plan.chunks) {
        if (chunk.sequence->num_output_tokens() < wanted[chunk.sequence]) continue;
        const auto sequence = scheduler.remove(chunk.sequence->id);
        ASSERT_NE(sequence, nullptr);
        share(*sequence, prefixes, sequence->num_computed_tokens);
        --unfinished;
      }
    }
    EXPECT_EQ(unfinished, 0) << "seed " << seed;
    EXPECT_EQ(pool.num_used(), 0);
    EXPECT_EQ(prefixes.num_blocks(), prefixes.num_idle_blocks());
  }
  EXPECT_GT(num_hits, 300);
  EXPECT_GT(num_preemptions, 30);
}

}  // namespace
}  // namespace kvcrush
