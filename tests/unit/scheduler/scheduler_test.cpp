#include "tests/unit/scheduler/scheduler_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

TEST_F(SchedulerTest, ChunksALongPromptWithinTheTokenBudget) {
  BlockPool pool(1000);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 64, .max_running_sequences = 8}, pool, prefixes);
  Sequence* sequence = add(scheduler, pool, 150);
  std::vector<int> chunks;
  for (int i = 0; i < 3; ++i) {
    const StepPlan plan = scheduler.plan();
    ASSERT_EQ(plan.chunks.size(), 1U);
    chunks.push_back(plan.chunks[0].num_tokens);
    EXPECT_EQ(plan.chunks[0].num_logit_rows, i == 2 ? 1 : 0);
    apply(plan);
  }
  EXPECT_EQ(chunks, (std::vector<int>{64, 64, 22}));
  EXPECT_TRUE(sequence->is_decoding());
}

TEST_F(SchedulerTest, DecodesGoFirstAndPrefillFillsTheRest) {
  BlockPool pool(1000);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 32, .max_running_sequences = 8}, pool, prefixes);
  add(scheduler, pool, 10);
  add(scheduler, pool, 10);
  apply(scheduler.plan());
  add(scheduler, pool, 100);
  const StepPlan plan = scheduler.plan();
  ASSERT_EQ(plan.chunks.size(), 3U);
  EXPECT_EQ(plan.num_decode_tokens, 2);
  EXPECT_EQ(plan.num_prefill_tokens, 30);
  EXPECT_EQ(plan.chunks[2].num_tokens, 30);
}

TEST_F(SchedulerTest, AdmitsOnlyWhatFitsItsWholePrompt) {
  BlockPool pool(2 * 8 * kLayers);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 16, .max_running_sequences = 8}, pool, prefixes);
  add(scheduler, pool, 200);  // 13 blocks a layer of 16
  add(scheduler, pool, 100);  // would start, but could not finish
  const StepPlan plan = scheduler.plan();
  EXPECT_EQ(plan.chunks.size(), 1U);
  EXPECT_EQ(scheduler.waiting().size(), 1);
}

TEST_F(SchedulerTest, PreemptsTheYoungestWhenDecodesRunOutOfBlocks) {
  BlockPool pool(4 * kLayers);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 64, .max_running_sequences = 8}, pool, prefixes);
  Sequence* old = add(scheduler, pool, 20);
  Sequence* young = add(scheduler, pool, 10);
  apply(scheduler.plan());
  EXPECT_EQ(scheduler.running().size(), 2U);
  bool preempted = false;
  for (int step = 0; step < 40 && !preempted; ++step) {
    const StepPlan plan = scheduler.plan();
    for (const Preemption& preemption : plan.preemptions) {
      EXPECT_EQ(preemption.sequence, young);
      EXPECT_GT(preemption.blocks_returned, 0);
      preempted = true;
    }
    apply(plan);
  }
  ASSERT_TRUE(preempted);
  EXPECT_EQ(young->num_computed_tokens, 0);
  EXPECT_EQ(young->cache.num_blocks(), 0);
  EXPECT_GT(young->num_output_tokens(), 0);  // what it said is kept
  EXPECT_EQ(scheduler.waiting().front(), young);
  EXPECT_EQ(scheduler.running().front().get(), old);
  EXPECT_EQ(scheduler.find_running(young->id), nullptr);
  EXPECT_EQ(scheduler.find(young->id), young);
  EXPECT_EQ(scheduler.find(old->id), old);
  EXPECT_EQ(scheduler.find(young->id + 100), nullptr);
}

TEST_F(SchedulerTest, AChunkNeverPassesAPruneBoundary) {
  BlockPool pool(1000);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 4096, .max_running_sequences = 8}, pool, prefixes);
  Sequence* sequence = add(scheduler, pool, 3000, budget(600, PruneWhen::kDuringPrefill));
  const int slack = CacheSchedule::kPrefillSlackTokens;
  int largest = 0;
  while (!sequence->is_decoding()) {
    const StepPlan plan = scheduler.plan();
    ASSERT_EQ(plan.chunks.size(), 1U);
    largest = std::max(largest, sequence->cache.max_cached_tokens());
    EXPECT_TRUE(plan.chunks[0].settling.prune);
    apply(plan);
  }
  EXPECT_EQ(largest, 600 + slack);
  EXPECT_EQ(sequence->cache.max_cached_tokens(), 600);
}

TEST_F(SchedulerTest, PrunesAfterThePromptAndAWindowOverBudgetInDecode) {
  BlockPool pool(1000);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 512, .max_running_sequences = 8}, pool, prefixes);
  Sequence* sequence = add(scheduler, pool, 400, budget(100));
  StepPlan plan = scheduler.plan();
  EXPECT_TRUE(plan.chunks[0].settling.prune);
  apply(plan);
  const int hysteresis = sequence->schedule.hysteresis_tokens();
  EXPECT_EQ(hysteresis, 32);  // the window is longer than a block and a 32nd of the budget
  for (int i = 1; i <= hysteresis; ++i) {
    plan = scheduler.plan();
    EXPECT_EQ(plan.chunks[0].settling.prune, i == hysteresis) << i;
    apply(plan);
  }
  EXPECT_EQ(sequence->cache.max_cached_tokens(), 100);
  EXPECT_EQ(sequence->cache.num_evicted(0), 300 + hysteresis);
}

// The boundaries at which a sequence is pruned must be the same whether it is decoded or recomputed in
// chunks.
TEST_F(SchedulerTest, RecomputationPrunesAtTheSamePlaces) {
  const auto boundaries = [&](int preempt_at) {
    BlockPool pool(1000);
    PrefixCache prefixes(pool, kLayers);
    Scheduler scheduler({.max_batch_tokens = 4096, .max_running_sequences = 8}, pool, prefixes);
    Sequence* sequence = add(scheduler, pool, 400, budget(100));
    std::vector<int> pruned_at;
    while (sequence->num_output_tokens() < 90) {
      if (sequence->num_output_tokens() == preempt_at) {
        preempt_at = -1;
        sequence->cache.clear();
        sequence->num_computed_tokens = 0;
        pruned_at.clear();
      }
      const StepPlan plan = scheduler.plan();
      apply(plan);
      if (plan.chunks[0].settling) pruned_at.push_back(sequence->num_computed_tokens);
    }
    return pruned_at;
  };
  const std::vector<int> expected = boundaries(-1);
  EXPECT_EQ(expected, (std::vector<int>{400, 432, 464}));
  EXPECT_EQ(boundaries(1), expected);
  EXPECT_EQ(boundaries(37), expected);
  EXPECT_EQ(boundaries(80), expected);
}

TEST_F(SchedulerTest, RemoveTakesFromRunningAndWaiting) {
  BlockPool pool(100);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 64, .max_running_sequences = 1}, pool, prefixes);
  const SequenceId first = add(scheduler, pool, 10)->id;
  const SequenceId second = add(scheduler, pool, 10)->id;
  apply(scheduler.plan());
  EXPECT_NE(scheduler.remove(second), nullptr);
  EXPECT_NE(scheduler.remove(first), nullptr);
  EXPECT_EQ(scheduler.remove(first), nullptr);
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(pool.num_used(), 0);
}

}  // namespace
}  // namespace kvcrush
