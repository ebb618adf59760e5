// Forks, priorities, swapping, prefixes, and all of it at random.
#include <map>
#include <random>

#include "tests/unit/scheduler/scheduler_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

TEST_F(SchedulerTest, ChildrenWaitForTheirTrunkAndForkFromIt) {
  BlockPool pool(1000);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 64, .max_running_sequences = 8}, pool, prefixes);
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
  EXPECT_EQ(scheduler.waiting().size(), 2);
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
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 512, .max_running_sequences = 8}, pool, prefixes);
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
  EXPECT_EQ(scheduler.waiting().size(), 1);
  ASSERT_NE(scheduler.remove(children[0]->id), nullptr);
  EXPECT_EQ(scheduler.plan().forks.size(), 1U);
}

TEST_F(SchedulerTest, TheLowestPriorityGivesWayFirst) {
  BlockPool pool(6 * kLayers);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 64, .max_running_sequences = 8}, pool, prefixes);
  Sequence* low = add(scheduler, pool, 20, {}, /*priority=*/-1);
  Sequence* high = add(scheduler, pool, 20);
  for (int step = 0; step < 60; ++step) {
    const StepPlan plan = scheduler.plan();
    for (const Preemption& preemption : plan.preemptions) {
      EXPECT_EQ(preemption.sequence, low);  // though it came first
      EXPECT_TRUE(preemption.swapped_blocks.empty());
    }
    apply(plan);
    if (!plan.preemptions.empty()) break;
  }
  EXPECT_EQ(low->num_preemptions, 1);
  EXPECT_EQ(high->num_preemptions, 0);
}

TEST_F(SchedulerTest, SwapsWhereThatIsCheaper) {
  for (const double seconds_per_token : {1e-3, 1e-9}) {
    BlockPool pool(4 * kLayers);
    PrefixCache prefixes(pool, kLayers);
    Scheduler scheduler({.max_batch_tokens = 64, .max_running_sequences = 8}, pool, prefixes);
    scheduler.set_swap_costs(
        {.max_blocks = 100, .seconds_per_block = 1e-6, .seconds_per_token = seconds_per_token});
    add(scheduler, pool, 20);
    Sequence* young = add(scheduler, pool, 10);
    int swapped_in = 0;
    int computed = 0;
    for (int step = 0; step < 60 && young->num_tokens() < 60; ++step) {
      const StepPlan plan = scheduler.plan();
      for (const Preemption& preemption : plan.preemptions) {
        EXPECT_EQ(preemption.swapped_blocks.empty(), seconds_per_token < 1e-6);
        computed = young->num_computed_tokens;
        EXPECT_EQ(scheduler.num_swapped_blocks(), static_cast<int>(preemption.swapped_blocks.size()));
      }
      for (const SwapIn& swap_in : plan.swap_ins) {
        ++swapped_in;
        EXPECT_EQ(swap_in.sequence, young);
        EXPECT_EQ(young->cache.layer(0).num_cached_tokens(), computed);
      }
      apply(plan);
      if (young->num_preemptions == 1 && scheduler.running().front().get() != young &&
          scheduler.running().size() == 1)
        scheduler.remove(scheduler.running().front()->id);
    }
    EXPECT_EQ(swapped_in, seconds_per_token < 1e-6 ? 0 : 1);
    EXPECT_EQ(scheduler.num_swapped_blocks(), 0);
    EXPECT_EQ(young->num_swaps, swapped_in);
  }
}

TEST_F(SchedulerTest, APromptStartsBehindItsPrefixAndAdmissionCountsIt) {
  BlockPool pool(20 * kLayers);
  PrefixCache prefixes(pool, kLayers);
  Scheduler scheduler({.max_batch_tokens = 512, .max_running_sequences = 8}, pool, prefixes);
  const auto add_alike = [&] {
    Sequence* sequence = add(scheduler, pool, 200);
    sequence->prefix.looks_up = sequence->prefix.shares = true;
    return sequence;
  };
  const auto share = [&](const StepPlan& plan) {
    for (const ScheduledChunk& chunk : plan.chunks) {
      Sequence& sequence = *chunk.sequence;
      if (sequence.num_computed_tokens <= sequence.num_prompt_tokens)
        sequence.cache.share(prefixes, sequence.prefix.scope,
                             sequence.shareable_tokens(sequence.num_prompt_tokens));
    }
  };
  add_alike();
  StepPlan plan = scheduler.plan();
  apply(plan);
  share(plan);
  Sequence* second = add_alike();  // 13 blocks a layer of 20, where 7 are free
  Sequence* third = add_alike();
  plan = scheduler.plan();
  ASSERT_EQ(plan.prefix_lookups.size(), 2U);
  EXPECT_EQ(second->prefix.num_hit_tokens, 192);
  EXPECT_EQ(third->prefix.num_hit_tokens, 192);
  EXPECT_EQ(plan.num_prefill_tokens, 16);
  EXPECT_EQ(plan.num_decode_tokens, 1);
}

// Random load on a small pool: every sequence finishes, nothing is lost, limits hold in each plan.
TEST_F(SchedulerTest, RandomLoadAlwaysFinishes) {
  for (int seed = 0; seed < 20; ++seed) {
    std::mt19937 engine(seed);
    BlockPool pool(12 * kLayers);
    PrefixCache prefixes(pool, kLayers);
    Scheduler scheduler({.max_batch_tokens = 48, .max_running_sequences = 6}, pool, prefixes);
    std::map<Sequence*, int> wanted;
    int unfinished = 0;
    for (int step = 0; step < 5000 && (step < 40 || unfinished > 0); ++step) {
      scheduler.set_swap_costs({.max_blocks = seed % 3 * 20, .seconds_per_block = 1, .seconds_per_token = 1});
      if (step < 40) {
        const bool compress = engine() % 2 == 0;
        const int prompt = 1 + static_cast<int>(engine() % 120);
        const std::optional<CompressionParams> compression =
            compress ? std::optional(budget(40 + static_cast<int>(engine() % 30))) : std::nullopt;
        const int priority = static_cast<int>(engine() % 9) - 4;
        wanted[add(scheduler, pool, prompt, compression, priority)] = 1 + static_cast<int>(engine() % 60);
        ++unfinished;
      }
      const StepPlan plan = scheduler.plan();
      ASSERT_LE(plan.num_decode_tokens + plan.num_prefill_tokens, 48);
      int tokens = 0;
      for (const ScheduledChunk& chunk : plan.chunks) tokens += chunk.num_tokens;
      ASSERT_EQ(tokens, plan.num_decode_tokens + plan.num_prefill_tokens);
      ASSERT_TRUE(!plan.chunks.empty() || scheduler.idle() || !plan.preemptions.empty() ||
                  !plan.swap_ins.empty());
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
