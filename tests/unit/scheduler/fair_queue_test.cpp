#include "engine/scheduler/fair_queue.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace kvcrush {
namespace {

constexpr cpu::KvFormat kFormat{.tail = KvDtype::kF32, .packed = KvDtype::kF32, .tail_tokens_per_block = 16};

class FairQueueTest : public ::testing::Test {
 protected:
  std::unique_ptr<Sequence> make(const std::string& tenant, int priority = 0, double weight = 1) {
    auto sequence = std::make_unique<Sequence>(SequenceCache(pool_, 1, kFormat));
    sequence->id = next_id_++;
    sequence->tenant = tenant;
    sequence->priority = priority;
    sequence->tenant_weight = weight;
    return sequence;
  }
  // Serves `rounds` turns of the same cost; whoever is served comes again at once. Returns turns by tenant
  // and priority.
  std::map<std::pair<std::string, int>, int> serve(int rounds, int cost = 100) {
    std::map<std::pair<std::string, int>, int> turns;
    for (int i = 0; i < rounds; ++i) {
      std::unique_ptr<Sequence> served = queue_.take(*queue_.front());
      ++turns[{served->tenant, served->priority}];
      queue_.push(make(served->tenant, served->priority, served->tenant_weight));
      queue_.charge(*served, cost);
    }
    return turns;
  }

  BlockPool pool_{1};
  FairQueue queue_;
  SequenceId next_id_ = 1;
};

TEST_F(FairQueueTest, OneTenantIsServedInOrderOfArrivalThePreemptedFirst) {
  for (int i = 0; i < 4; ++i) queue_.push(make("a"));
  EXPECT_EQ(queue_.size(), 4);
  std::unique_ptr<Sequence> first = queue_.take(*queue_.front());
  EXPECT_EQ(first->id, 1U);
  EXPECT_EQ(queue_.front()->id, 2U);
  queue_.push_front(std::move(first));
  EXPECT_EQ(queue_.front()->id, 1U);
  EXPECT_EQ(queue_.remove(1)->id, 1U);
  EXPECT_EQ(queue_.remove(1), nullptr);
  EXPECT_EQ(queue_.front()->id, 2U);
}

TEST_F(FairQueueTest, TenantsShareByWeight) {
  queue_.push(make("a"));
  queue_.push(make("b", 0, 3));
  const auto turns = serve(400);
  EXPECT_NEAR(turns.at({"b", 0}), 300, 2);
  EXPECT_NEAR(turns.at({"a", 0}), 100, 2);
}

TEST_F(FairQueueTest, EachStepOfPriorityDoublesTheShareAndNobodyStarves) {
  for (const int priority : {-4, -1, 0, 1, 4}) queue_.push(make("a", priority));
  const auto turns = serve(2000);
  EXPECT_NEAR(turns.at({"a", 4}), 8 * turns.at({"a", 1}), 0.1 * 1600);
  EXPECT_NEAR(turns.at({"a", 1}), 2 * turns.at({"a", 0}), 5);
  EXPECT_GE(turns.at({"a", -4}), 5);
}

TEST_F(FairQueueTest, AHighPriorityTakesNothingFromAnotherTenant) {
  queue_.push(make("loud", 4));
  queue_.push(make("loud", 0));
  queue_.push(make("meek", -4));
  const auto turns = serve(600);
  EXPECT_NEAR(turns.at({"meek", -4}), 300, 2);
}

TEST_F(FairQueueTest, APauseGivesNoCredit) {
  queue_.push(make("a"));
  serve(1000);
  queue_.push(make("b"));
  const auto turns = serve(20);
  EXPECT_LE(turns.at({"b", 0}), 11);
  EXPECT_GE(turns.at({"b", 0}), 9);
}

TEST_F(FairQueueTest, WorkDoneWhileNobodyWaitedIsNoDebt) {
  for (int i = 0; i < 50; ++i) {
    queue_.push(make("a"));
    queue_.charge(*queue_.take(*queue_.front()), 1000);
  }
  queue_.push(make("a"));
  queue_.push(make("b"));
  const auto turns = serve(20);
  EXPECT_NEAR(turns.at({"a", 0}), 10, 1);
}

// Two arrive for each that is served: a flood of tenants and priorities, and new tenants with a clean slate.
TEST_F(FairQueueTest, AdversarialArrivalsStarveNobody) {
  std::mt19937 random(3);
  std::map<SequenceId, int> latest_turn;  // by which each of them must have been served
  const auto push = [&](const std::string& tenant, int priority, int turn) {
    auto sequence = make(tenant, priority);
    latest_turn[sequence->id] = turn + 8 * (queue_.size() + 1);
    queue_.push(std::move(sequence));
  };
  push("victim", -4, 0);
  push("victim", 4, 0);
  for (int turn = 0; turn < 4000; ++turn) {
    push("flood" + std::to_string(turn % 7), static_cast<int>(random() % 9) - 4, turn);
    push("fresh" + std::to_string(turn), 0, turn);
    std::unique_ptr<Sequence> served = queue_.take(*queue_.front());
    ASSERT_LE(turn, latest_turn.at(served->id)) << served->tenant << " " << served->priority;
    latest_turn.erase(served->id);
    if (served->tenant == "victim") push("victim", served->priority, turn);
    queue_.charge(*served, 50 + static_cast<int>(random() % 100));
  }
  for (const auto& [id, turn] : latest_turn) ASSERT_GE(turn, 4000) << id;
}

TEST_F(FairQueueTest, WaitingForATrunkHoldsNobodyBack) {
  auto trunk = make("a");
  trunk->kind = SequenceKind::kTrunk;
  trunk->group = std::make_shared<ForkGroup>();
  trunk->group->trunk = trunk.get();
  auto fork = make("a");
  fork->group = trunk->group;
  fork->forks = true;
  auto prefills = make("a");  // compares with the trunk, and forks from nothing
  prefills->group = trunk->group;
  const SequenceId fork_id = fork->id;
  queue_.push(std::move(fork));
  queue_.push(std::move(prefills));
  EXPECT_EQ(queue_.front(), nullptr);
  queue_.push(make("a"));
  EXPECT_EQ(queue_.front()->id, next_id_ - 1);
  trunk->group->ready = true;
  EXPECT_EQ(queue_.front()->id, fork_id);  // before everybody: the trunk holds its blocks
}

}  // namespace
}  // namespace kvcrush
