#include "server/call_deadline.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace kvcrush {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const SteadyTime kNow{seconds(1000)};

gpr_timespec monotonic(std::int64_t whole_seconds, std::int32_t nanoseconds) {
  return {whole_seconds, nanoseconds, GPR_CLOCK_MONOTONIC};
}
const gpr_timespec kTheirNow = monotonic(5000, 600'000'000);

TEST(CallDeadline, KeepsItsDistanceOnTheOtherClock) {
  EXPECT_EQ(to_steady(monotonic(5000, 850'000'000), kTheirNow, kNow), kNow + milliseconds(250));
  EXPECT_EQ(to_steady(monotonic(5001, 100'000'000), kTheirNow, kNow), kNow + milliseconds(500));
  EXPECT_EQ(to_steady(monotonic(4998, 600'000'000), kTheirNow, kNow), kNow - seconds(2));
}

TEST(CallDeadline, NoneStaysNone) {
  EXPECT_EQ(to_steady(gpr_inf_future(GPR_CLOCK_MONOTONIC), kTheirNow, kNow), std::nullopt);
  EXPECT_TRUE(check_deadline(std::nullopt, kNow).ok());
  EXPECT_FALSE(is_over_deadline(std::nullopt, kNow, kNow + seconds(1000)));
}

TEST(CallDeadline, FarAwayIsNone) {
  constexpr std::int64_t kYear = 365 * 24 * 3600;
  EXPECT_EQ(to_steady(monotonic(5000 + 9 * kYear, 600'000'000), kTheirNow, kNow), kNow + seconds(9 * kYear));
  for (const std::int64_t years : {11, 291, 293, 100'000}) {
    EXPECT_EQ(to_steady(monotonic(5000 + years * kYear, 0), kTheirNow, kNow), std::nullopt) << years;
  }
}

TEST(CallDeadline, LongPastDoesNotOverflow) {
  EXPECT_LT(*to_steady(gpr_inf_past(GPR_CLOCK_MONOTONIC), kTheirNow, kNow), kNow);
}

TEST(CallDeadline, PassedOnArrivalIsRefused) {
  EXPECT_TRUE(check_deadline(kNow + milliseconds(1), kNow).ok());
  const Status status = check_deadline(kNow - milliseconds(30), kNow);
  EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(status.message(), "deadline passed 30 ms before the request could be queued");
  EXPECT_EQ(check_deadline(kNow, kNow).code(), StatusCode::kDeadlineExceeded);
}

TEST(CallDeadline, ClientsClockMayBeAHundredthEarly) {
  const SteadyTime deadline = kNow + seconds(10);
  EXPECT_FALSE(is_over_deadline(deadline, kNow, kNow + seconds(5)));
  EXPECT_FALSE(is_over_deadline(deadline, kNow, kNow + milliseconds(9800)));
  EXPECT_TRUE(is_over_deadline(deadline, kNow, kNow + milliseconds(9900)));
  EXPECT_TRUE(is_over_deadline(deadline, kNow, kNow + seconds(11)));
}

}  // namespace
}  // namespace kvcrush
