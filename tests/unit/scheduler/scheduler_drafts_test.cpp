// How much of a step, and of the pool, drafts may take.
#include <algorithm>
#include <utility>

#include "tests/unit/scheduler/scheduler_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class SchedulerDraftsTest : public SchedulerTest {
 protected:
  // Every token of the prompt is the same, and so is every token that apply() samples: the match is long, and
  // a draft is as likely as can be.
  Sequence* add_looking_up(Scheduler& scheduler, BlockPool& pool, int prompt, int max_tokens = 1000) {
    Sequence* sequence = add(scheduler, pool, prompt);
    std::fill(sequence->token_ids.begin(), sequence->token_ids.end(), 2);
    sequence->sampling.max_tokens = max_tokens;
    sequence->lookup.emplace(/*max_drafts=*/64);
    return sequence;
  }
  // As the engine takes them: all right.
  static void take_all(const StepPlan& plan) {
    apply(plan);
    for (const ScheduledChunk& chunk : plan.chunks) {
      Sequence& sequence = *chunk.sequence;
      if (chunk.num_drafts == 0) continue;
      sequence.token_ids.insert(sequence.token_ids.end(), static_cast<std::size_t>(chunk.num_drafts), 2);
      sequence.drafts.clear();
    }
  }
  // Steps until drafts are as many as they get.
  static StepPlan settled_plan(Scheduler& scheduler) {
    for (int i = 0; i < 20; ++i) take_all(scheduler.plan());
    return scheduler.plan();
  }
};

TEST_F(SchedulerDraftsTest, DraftsAreLookedUpAndRunWithTheNewestToken) {
  BlockPool pool(4000);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 256, .max_running_sequences = 16}, pool, prefixes);
  const Sequence* sequence = add_looking_up(scheduler, pool, 40);
  apply(scheduler.plan());
  const StepPlan plan = scheduler.plan();
  ASSERT_EQ(plan.chunks.size(), 1U);
  const ScheduledChunk& chunk = plan.chunks[0];
  EXPECT_GT(chunk.num_drafts, 4);
  EXPECT_EQ(chunk.num_tokens, 1 + chunk.num_drafts);
  EXPECT_EQ(chunk.num_logit_rows, 1 + chunk.num_drafts);
  EXPECT_EQ(sequence->drafts.size(), static_cast<std::size_t>(chunk.num_drafts));
  EXPECT_TRUE(sequence->drafts_are_looked_up);
}

TEST_F(SchedulerDraftsTest, TogetherTheyTakeAQuarterOfAStepAndAlike) {
  for (const int running : {1, 2, 4}) {
    BlockPool pool(4000);
    PrefixCache prefixes(pool, kLayers);
    Scheduler scheduler({.max_batch_tokens = 64, .max_running_sequences = 16}, pool, prefixes);
    for (int i = 0; i < running; ++i) add_looking_up(scheduler, pool, 8);
    const StepPlan plan = settled_plan(scheduler);
    ASSERT_EQ(static_cast<int>(plan.chunks.size()), running);
    for (const ScheduledChunk& chunk : plan.chunks) EXPECT_EQ(chunk.num_drafts, 16 / running);
  }
}

TEST_F(SchedulerDraftsTest, ManyRunningSequencesDraftNothing) {
  BlockPool pool(8000);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 4096, .max_running_sequences = 256}, pool, prefixes);
  for (int i = 0; i < 200; ++i) add_looking_up(scheduler, pool, 8);
  const StepPlan plan = scheduler.plan();
  ASSERT_EQ(plan.chunks.size(), 200U);
  apply(plan);
  for (const ScheduledChunk& chunk : scheduler.plan().chunks) EXPECT_EQ(chunk.num_drafts, 0);
}

TEST_F(SchedulerDraftsTest, APromptGetsItsShareOfTheStepBesideThem) {
  BlockPool pool(4000);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 64, .max_running_sequences = 16}, pool, prefixes);
  for (int i = 0; i < 2; ++i) add_looking_up(scheduler, pool, 8);
  settled_plan(scheduler);
  add(scheduler, pool, 500);
  const StepPlan plan = scheduler.plan();
  EXPECT_GE(plan.num_prefill_tokens, 64 - 2 - 16);
}

// A prompt is admitted because the blocks for all of it are free, but for those that others are sure of. If
// drafts took them it would be begun and then preempted.
TEST_F(SchedulerDraftsTest, TakeNoBlockThatAPromptIsSureOf) {
  int drafts_beside_it = 0;
  int prompts_done = 0;
  for (int blocks = 110; blocks < 260; ++blocks) {
    BlockPool pool(blocks);
    PrefixCache prefixes(pool, kLayers);
    Scheduler scheduler({.max_batch_tokens = 512, .max_running_sequences = 16}, pool, prefixes);
    Sequence* quoting = add_looking_up(scheduler, pool, 8);
    for (int i = 0; i < 6; ++i) take_all(scheduler.plan());
    const Sequence* prompt = add(scheduler, pool, 600);
    // It begins to draft once the prompt is admitted, whose room was worked out without drafts.
    std::optional<PromptLookup> lookup = std::exchange(quoting->lookup, std::nullopt);
    for (int step = 0; step < 4 && prompt->num_output_tokens() == 0; ++step) {
      if (step == 1) quoting->lookup = std::move(lookup);
      const StepPlan plan = scheduler.plan();
      ASSERT_TRUE(plan.preemptions.empty()) << blocks << " blocks, step " << step;
      drafts_beside_it += prompt->num_computed_tokens > 0 ? static_cast<int>(quoting->drafts.size()) : 0;
      for (const ScheduledChunk& chunk : plan.chunks) {  // all drafts are wrong
        chunk.sequence->cache.drop_newest(chunk.num_drafts);
        chunk.sequence->num_computed_tokens += chunk.num_tokens - chunk.num_drafts;
        chunk.sequence->drafts.clear();
        if (chunk.num_logit_rows > 0) chunk.sequence->token_ids.push_back(2);
      }
    }
    prompts_done += prompt->num_output_tokens();
  }
  EXPECT_GT(drafts_beside_it, 0);
  EXPECT_GT(prompts_done, 10);
}

TEST_F(SchedulerDraftsTest, EndBeforeABoundaryAndBeforeMaxTokens) {
  BlockPool pool(4000);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 256, .max_running_sequences = 16}, pool, prefixes);
  Sequence* pruned = add_looking_up(scheduler, pool, 200);
  pruned->policy.compression = budget(100);
  pruned->schedule = CacheSchedule(pruned->policy, kFormat, 200, kLayers);
  take_all(scheduler.plan());
  int boundaries = 0;
  for (int i = 0; i < 100; ++i) {
    const StepPlan plan = scheduler.plan();
    const ScheduledChunk& chunk = plan.chunks.at(0);
    if (chunk.settling) {
      EXPECT_EQ(chunk.num_drafts, 0);
      ++boundaries;
    }
    take_all(plan);
  }
  EXPECT_GT(boundaries, 3);
  scheduler.remove(pruned->id);

  Sequence* short_one = add_looking_up(scheduler, pool, 60, /*max_tokens=*/5);
  take_all(scheduler.plan());
  EXPECT_EQ(scheduler.plan().chunks.at(0).num_drafts, 3);  // and the token after them
  EXPECT_EQ(short_one->num_output_tokens(), 1);
}

// What was not checked is a token late in the next step.
TEST_F(SchedulerDraftsTest, WhatDoesNotFitIsForgotten) {
  BlockPool pool(4000);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 16, .max_running_sequences = 16}, pool, prefixes);
  Sequence* sequence = add(scheduler, pool, 10);
  sequence->sampling.max_tokens = 1000;
  apply(scheduler.plan());
  sequence->drafts.assign(40, 3);  // as of a lookahead
  const StepPlan plan = scheduler.plan();
  EXPECT_EQ(plan.chunks.at(0).num_drafts, 15);
  EXPECT_EQ(sequence->drafts.size(), 15U);
  EXPECT_FALSE(sequence->drafts_are_looked_up);
}

}  // namespace
}  // namespace kvcrush
