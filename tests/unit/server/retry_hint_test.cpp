#include "server/retry_hint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "server/load_shedding.h"

namespace kvcrush {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const QueueOutflow::Clock::time_point kStart{seconds(1000)};

TEST(QueueOutflow, WaitIsTheQueueOverTheRate) {
  QueueOutflow outflow;
  for (int i = 0; i < 20; ++i) outflow.left(kStart + milliseconds(500) * i);  // 2 a second
  EXPECT_EQ(outflow.time_to_leave(10, kStart + seconds(10)), milliseconds(5000));
  EXPECT_EQ(outflow.time_to_leave(40, kStart + seconds(10)), milliseconds(20'000));
}

TEST(QueueOutflow, OnlyTheNewestDeparturesCount) {
  QueueOutflow outflow;
  for (int i = 0; i < 100; ++i) outflow.left(kStart + seconds(60) * i);
  const auto later = kStart + seconds(60) * 100;
  for (int i = 0; i < 64; ++i) outflow.left(later + milliseconds(100) * i);
  EXPECT_EQ(outflow.time_to_leave(64, later + milliseconds(6400)), milliseconds(6400));
}

TEST(QueueOutflow, AStandingQueueLooksSlowerAndSlower) {
  QueueOutflow outflow;
  outflow.left(kStart);
  EXPECT_EQ(outflow.time_to_leave(2, kStart + seconds(1)), milliseconds(2000));
  EXPECT_EQ(outflow.time_to_leave(2, kStart + seconds(8)), milliseconds(16'000));
  EXPECT_EQ(outflow.time_to_leave(2, kStart + seconds(3600)), kMostRetryWait);
}

TEST(QueueOutflow, OnlyTimeWithAQueueCounts) {
  QueueOutflow outflow;
  outflow.left(kStart);
  outflow.set_waiting(3, kStart);
  EXPECT_EQ(outflow.time_to_leave(4, kStart + seconds(2)), milliseconds(8000));
  outflow.set_waiting(0, kStart + seconds(2));
  EXPECT_EQ(outflow.time_to_leave(256, kStart + seconds(100)), milliseconds(1000));
  outflow.set_waiting(8, kStart + seconds(100));
  EXPECT_EQ(outflow.time_to_leave(8, kStart + milliseconds(100'500)), milliseconds(1000));
  outflow.set_waiting(8, kStart + seconds(107));
  EXPECT_EQ(outflow.time_to_leave(8, kStart + seconds(107)), milliseconds(7000)) << "none has left yet";
  EXPECT_EQ(outflow.time_to_leave(8, kStart + seconds(1000)), kMostRetryWait);
  outflow.left(kStart + seconds(110));
  EXPECT_EQ(outflow.time_to_leave(8, kStart + seconds(111)), milliseconds(8000));
}

TEST(QueueOutflow, HasBoundsAndAnAnswerFromTheStart) {
  QueueOutflow outflow;
  EXPECT_EQ(outflow.time_to_leave(256, kStart), milliseconds(1000));
  for (int i = 0; i < 64; ++i) outflow.left(kStart);
  EXPECT_EQ(outflow.time_to_leave(1, kStart), kLeastRetryWait);
  EXPECT_EQ(outflow.time_to_leave(0, kStart + milliseconds(1)), kLeastRetryWait);
  EXPECT_EQ(outflow.time_to_leave(1 << 30, kStart + seconds(1000)), kMostRetryWait);
}

TEST(RetryHint, SpreadsClientsByAQuarterAndAlwaysAlike) {
  std::set<milliseconds> seen;
  for (std::uint64_t i = 0; i < 200; ++i) {
    const milliseconds wait = spread(milliseconds(8000), i);
    EXPECT_GE(wait, milliseconds(6000));
    EXPECT_LE(wait, milliseconds(10'000));
    EXPECT_EQ(wait, spread(milliseconds(8000), i));
    seen.insert(wait);
  }
  EXPECT_GT(seen.size(), 150u);
  EXPECT_LT(*seen.begin(), milliseconds(6200));
  EXPECT_GT(*seen.rbegin(), milliseconds(9800));
  for (std::uint64_t i = 0; i < 20; ++i) {
    EXPECT_LE(spread(kMostRetryWait, i), kMostRetryWait);
    EXPECT_GE(spread(milliseconds(0), i), kLeastRetryWait);
  }
}

TEST(RetryHint, SpreadsAtTheBoundsToo) {
  for (const milliseconds wait :
       {milliseconds(50'000), milliseconds(60'000), milliseconds(3'600'000), milliseconds(100)}) {
    std::set<milliseconds> seen;
    for (std::uint64_t i = 0; i < 200; ++i) seen.insert(spread(wait, i));
    EXPECT_GT(seen.size(), wait == milliseconds(100) ? 20u : 150u) << wait.count();
    EXPECT_GE(*seen.begin(), std::min(wait, kMostRetryWait) * 3 / 4);
    EXPECT_GE(*seen.begin(), kLeastRetryWait);
    EXPECT_LE(*seen.rbegin(), kMostRetryWait);
  }
}

TEST(RetryHint, WhatIsKnownIsSpreadOnlyLater) {
  std::set<milliseconds> seen;
  for (std::uint64_t i = 0; i < 200; ++i) seen.insert(spread_later(milliseconds(1000), i));
  EXPECT_GT(seen.size(), 100u);
  EXPECT_GE(*seen.begin(), milliseconds(1000));
  EXPECT_LE(*seen.rbegin(), milliseconds(1250));
  EXPECT_EQ(spread_later(kMostRetryWait, 1), kMostRetryWait);
}

TEST(LoadShedding, TellsTheBoundFromTheStatus) {
  EXPECT_EQ(shed_reason({StatusCode::kResourceExhausted,
                         "the queue holds 256 of at most 256 waiting sequences; try again later"}),
            ShedReason::kQueueRequests);
  EXPECT_EQ(shed_reason({StatusCode::kResourceExhausted,
                         "the queue holds 900 of at most 1000 waiting prompt tokens"}),
            ShedReason::kQueueTokens);
  EXPECT_EQ(shed_reason({StatusCode::kResourceExhausted,
                         "the queue of tokens holds 2 of at most 2 waiting sequences"}),
            ShedReason::kQueueRequests);
  EXPECT_EQ(shed_reason({StatusCode::kUnavailable, "the server is shutting down"}), ShedReason::kDraining);
  EXPECT_EQ(shed_reason({StatusCode::kAlreadyExists, "running"}), std::nullopt);
  EXPECT_EQ(shed_reason(Status()), std::nullopt);
}

}  // namespace
}  // namespace kvcrush
