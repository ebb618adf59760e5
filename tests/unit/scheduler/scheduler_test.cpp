#include "engine/scheduler/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace kvcrush {
namespace {

constexpr int kBlockTokens = 16;
constexpr int kLayers = 2;
constexpr cpu::KvFormat kFormat{
    .tail = KvDtype::kF32, .packed = KvDtype::kF32, .tail_tokens_per_block = kBlockTokens};

class SchedulerTest : public ::testing::Test {
 protected:
  Sequence* add(Scheduler& scheduler, BlockPool& pool, int prompt,
                std::optional<CompressionParams> compression = {}) {
    auto sequence = std::make_unique<Sequence>(SequenceCache(pool, kLayers, kFormat));
    sequence->id = next_id_++;
    sequence->token_ids.assign(prompt, 1);
    sequence->num_prompt_tokens = prompt;
    sequence->policy.compression = compression;
    sequence->schedule = CacheSchedule(sequence->policy, kFormat, prompt, kLayers);
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

  SequenceId next_id_ = 1;
};

TEST_F(SchedulerTest, ChunksALongPromptWithinTheTokenBudget) {
  BlockPool pool(1000);
  Scheduler scheduler({.max_batch_tokens = 64, .max_running_sequences = 8}, pool);
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
  Scheduler scheduler({.max_batch_tokens = 32, .max_running_sequences = 8}, pool);
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
  Scheduler scheduler({.max_batch_tokens = 16, .max_running_sequences = 8}, pool);
  add(scheduler, pool, 200);  // 13 blocks a layer of 16
  add(scheduler, pool, 100);  // would start, but could not finish
  const StepPlan plan = scheduler.plan();
  EXPECT_EQ(plan.chunks.size(), 1U);
  EXPECT_EQ(scheduler.waiting().size(), 1U);
}

TEST_F(SchedulerTest, PreemptsTheYoungestWhenDecodesRunOutOfBlocks) {
  BlockPool pool(4 * kLayers);
  Scheduler scheduler({.max_batch_tokens = 64, .max_running_sequences = 8}, pool);
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
  EXPECT_EQ(scheduler.waiting().front().get(), young);
  EXPECT_EQ(scheduler.running().front().get(), old);
}

TEST_F(SchedulerTest, AChunkNeverPassesAPruneBoundary) {
  BlockPool pool(1000);
  Scheduler scheduler({.max_batch_tokens = 4096, .max_running_sequences = 8}, pool);
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
  Scheduler scheduler({.max_batch_tokens = 512, .max_running_sequences = 8}, pool);
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
    Scheduler scheduler({.max_batch_tokens = 4096, .max_running_sequences = 8}, pool);
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
  Scheduler scheduler({.max_batch_tokens = 64, .max_running_sequences = 1}, pool);
  const SequenceId first = add(scheduler, pool, 10)->id;
  const SequenceId second = add(scheduler, pool, 10)->id;
  apply(scheduler.plan());
  EXPECT_NE(scheduler.remove(second), nullptr);
  EXPECT_NE(scheduler.remove(first), nullptr);
  EXPECT_EQ(scheduler.remove(first), nullptr);
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(pool.num_used(), 0);
}

TEST_F(SchedulerTest, ChildrenWaitForTheirTrunkAndForkFromIt) {
  BlockPool pool(1000);
  Scheduler scheduler({.max_batch_tokens = 64, .max_running_sequences = 8}, pool);
  Sequence* trunk = add(scheduler, pool, 100);
  trunk->kind = SequenceKind::kTrunk;
  trunk->group = std::make_shared<ForkGroup>();
  trunk->group->trunk = trunk;
  Sequence* pruned = add(scheduler, pool, 100, budget(60));
  Sequence* full = add(scheduler, pool, 100);
  for (Sequence* child : {pruned, full}) {
    child->group = trunk->group;
    child->forks = true;
    ++trunk->group->num_waiting_children;
  }
  apply(scheduler.plan());
  EXPECT_EQ(scheduler.waiting().size(), 2U);
  StepPlan plan = scheduler.plan();
  EXPECT_EQ(plan.chunks[0].num_logit_rows, 1);
  EXPECT_TRUE(plan.forks.empty());
  apply(plan);
  EXPECT_TRUE(scheduler.plan().forks.empty());  // the trunk's logits are not said to be there
  trunk->group->ready = true;
  plan = scheduler.plan();
  ASSERT_EQ(plan.forks.size(), 2U);
  EXPECT_EQ(plan.forks[0].child, pruned);
  EXPECT_EQ(pruned->cache.layer(0).num_cached_tokens(), 60);
  EXPECT_EQ(pruned->cache.num_evicted(1), 40);
  EXPECT_EQ(full->cache.layer(0).num_cached_tokens(), 100);
  EXPECT_EQ(full->num_computed_tokens, 100);
  EXPECT_EQ(trunk->group->num_waiting_children, 0);
}

TEST_F(SchedulerTest, AForkWaitsForRoom) {
  BlockPool pool(20 * kLayers);
  Scheduler scheduler({.max_batch_tokens = 512, .max_running_sequences = 8}, pool);
  Sequence* trunk = add(scheduler, pool, 150);  // 10 blocks a layer
  trunk->kind = SequenceKind::kTrunk;
  trunk->group = std::make_shared<ForkGroup>();
  trunk->group->trunk = trunk;
  std::vector<Sequence*> children = {add(scheduler, pool, 150, budget(60)),
                                     add(scheduler, pool, 150, budget(60))};
  for (Sequence* child : children) {
    child->group = trunk->group;
    child->forks = true;
    ++trunk->group->num_waiting_children;
  }
  trunk->child_blocks = children[0]->peak_blocks() + kLayers;  // 60 + 32 tokens: 6 blocks a layer
  apply(scheduler.plan());
  trunk->group->ready = true;
  EXPECT_EQ(scheduler.plan().forks.size(), 1U);  // of 10 free blocks a layer: 7 for one, not for both
  EXPECT_EQ(scheduler.waiting().size(), 1U);
  ASSERT_NE(scheduler.remove(children[0]->id), nullptr);
  EXPECT_EQ(scheduler.plan().forks.size(), 1U);
}

// Random load on a small pool: every sequence finishes, nothing is lost, limits hold in each plan.
TEST_F(SchedulerTest, RandomLoadAlwaysFinishes) {
  for (int seed = 0; seed < 20; ++seed) {
    std::mt19937 engine(seed);
    BlockPool pool(12 * kLayers);
    Scheduler scheduler({.max_batch_tokens = 48, .max_running_sequences = 6}, pool);
    std::map<Sequence*, int> wanted;
    int unfinished = 0;
    for (int step = 0; step < 5000 && (step < 40 || unfinished > 0); ++step) {
      if (step < 40) {
        const bool compress = engine() % 2 == 0;
        const int prompt = 1 + static_cast<int>(engine() % 120);
        wanted[add(scheduler, pool, prompt,
                   compress ? std::optional(budget(40 + engine() % 30)) : std::nullopt)] =
            1 + static_cast<int>(engine() % 60);
        ++unfinished;
      }
      const StepPlan plan = scheduler.plan();
      ASSERT_LE(plan.num_decode_tokens + plan.num_prefill_tokens, 48);
      int tokens = 0;
      for (const ScheduledChunk& chunk : plan.chunks) tokens += chunk.num_tokens;
      ASSERT_EQ(tokens, plan.num_decode_tokens + plan.num_prefill_tokens);
      ASSERT_TRUE(!plan.chunks.empty() || scheduler.idle() || !plan.preemptions.empty());
      apply(plan);
      for (const ScheduledChunk& chunk : plan.chunks) {
        if (chunk.sequence->num_output_tokens() < wanted[chunk.sequence]) continue;
        ASSERT_NE(scheduler.remove(chunk.sequence->id), nullptr);
        --unfinished;
      }
    }
    EXPECT_EQ(unfinished, 0) << "seed " << seed;
    EXPECT_EQ(pool.num_used(), 0);
  }
}

}  // namespace
}  // namespace kvcrush
