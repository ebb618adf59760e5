#include "server/token_limits.h"

#include <gtest/gtest.h>

#include <vector>

namespace kvcrush {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

AuthToken token(const std::string& name, int concurrent, int per_minute) {
  AuthToken token;
  token.name = name;
  token.limits.max_concurrent_requests = concurrent;
  token.limits.max_requests_per_minute = per_minute;
  return token;
}

TEST(TokenBucket, FullBucketThenOnePerInterval) {
  TokenBucket bucket;
  SteadyTime now{};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(bucket.take(6, now), std::nullopt) << i;
  EXPECT_EQ(bucket.take(6, now), milliseconds(10'000));
  now += milliseconds(2500);
  EXPECT_EQ(bucket.take(6, now), milliseconds(7500));
  now += milliseconds(7500);  // as told
  EXPECT_EQ(bucket.take(6, now), std::nullopt);
  EXPECT_EQ(bucket.take(6, now), milliseconds(10'000));
}

TEST(TokenBucket, HoldsNoMoreThanAMinute) {
  TokenBucket bucket;
  SteadyTime now{};
  EXPECT_EQ(bucket.take(2, now), std::nullopt);
  now += std::chrono::hours(5);
  EXPECT_EQ(bucket.take(2, now), std::nullopt);
  EXPECT_EQ(bucket.take(2, now), std::nullopt);
  EXPECT_EQ(bucket.take(2, now), milliseconds(30'000));
}

TEST(TokenBucket, WaitingAsToldIsAlwaysEnough) {
  for (const int per_minute : {1, 7, 59, 61, 997, 60'000, 1'000'000}) {
    TokenBucket bucket;
    SteadyTime now{};
    for (int i = 0; i < per_minute + 200; ++i) {
      const auto wait = bucket.take(per_minute, now);
      if (!wait) continue;
      now += *wait;
      ASSERT_EQ(bucket.take(per_minute, now), std::nullopt) << per_minute << " per minute, call " << i;
    }
  }
}

TEST(TokenBucket, ALowerLimitAppliesAtOnce) {
  TokenBucket bucket;
  SteadyTime now{};
  EXPECT_EQ(bucket.take(100, now), std::nullopt);
  EXPECT_EQ(bucket.take(1, now), std::nullopt);  // 99 were left, of 1
  EXPECT_EQ(bucket.take(1, now), milliseconds(60'000));
}

TEST(TokenUsage, RunningRequestsAreCountedPerToken) {
  TokenUsage usage;
  const AuthToken a = token("a", 2, 0);
  const AuthToken b = token("b", 1, 0);
  std::vector<RunningSlot> slots(4);
  EXPECT_FALSE(usage.enter(a, {}, &slots[0]).has_value());
  EXPECT_FALSE(usage.enter(a, {}, &slots[1]).has_value());
  const auto refused = usage.enter(a, {}, &slots[2]);
  ASSERT_TRUE(refused.has_value());
  EXPECT_EQ(refused->limit, TokenLimit::kConcurrentRequests);
  EXPECT_EQ(refused->allowed, 2);
  EXPECT_GT(refused->retry_after.count(), 0);
  EXPECT_FALSE(usage.enter(b, {}, &slots[3]).has_value());
  EXPECT_FALSE(usage.enter(a, {}, nullptr).has_value());  // counts not as running
  slots[0] = {};
  EXPECT_FALSE(usage.enter(a, {}, &slots[2]).has_value());
}

TEST(TokenUsage, ARefusedRunTakesNoCallOfTheMinute) {
  TokenUsage usage;
  const AuthToken a = token("a", 1, 2);
  RunningSlot first;
  RunningSlot second;
  EXPECT_FALSE(usage.enter(a, {}, &first).has_value());
  EXPECT_EQ(usage.enter(a, {}, &second)->limit, TokenLimit::kConcurrentRequests);
  first = {};
  EXPECT_FALSE(usage.enter(a, {}, &second).has_value());
  second = {};
  EXPECT_EQ(usage.enter(a, {}, &second)->limit, TokenLimit::kRequestsPerMinute);
  EXPECT_FALSE(usage.enter(a, SteadyTime(seconds(30)), &second).has_value());
}

TEST(TokenUsage, CountsOutliveAReloadOfTheirToken) {
  TokenUsage usage;
  const AuthToken kept = token("kept", 1, 0);
  const AuthToken gone = token("gone", 1, 0);
  RunningSlot kept_slot;
  RunningSlot gone_slot;
  EXPECT_FALSE(usage.enter(kept, {}, &kept_slot).has_value());
  EXPECT_FALSE(usage.enter(gone, {}, &gone_slot).has_value());
  const std::string digest(64, 'a');
  usage.keep_only(TokenSet::parse(R"({"tokens": [{"name": "kept", "sha256": ")" + digest + "\"}]}").value());
  RunningSlot slot;
  EXPECT_TRUE(usage.enter(kept, {}, &slot).has_value());
  EXPECT_FALSE(usage.enter(gone, {}, &slot).has_value());
}

}  // namespace
}  // namespace kvcrush
