#include "server/call_deadline.h"

#include <gtest/gtest.h>

namespace kvcrush {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using SystemTime = std::chrono::system_clock::time_point;

const SystemTime kSystemNow{seconds(1'700'000'000)};
const SteadyTime kNow{seconds(1000)};

TEST(CallDeadline, KeepsItsDistanceOnTheOtherClock) {
  EXPECT_EQ(to_steady(kSystemNow + milliseconds(250), kSystemNow, kNow), kNow + milliseconds(250));
  EXPECT_EQ(to_steady(kSystemNow - seconds(2), kSystemNow, kNow), kNow - seconds(2));
}

TEST(CallDeadline, NoneStaysNone) {
  EXPECT_EQ(to_steady(SystemTime::max(), kSystemNow, kNow), std::nullopt);
  EXPECT_TRUE(check_deadline(std::nullopt, kNow).ok());
  EXPECT_FALSE(is_over_deadline(std::nullopt, kNow, kNow + seconds(1000)));
}

TEST(CallDeadline, LongPastDoesNotOverflow) {
  EXPECT_LT(*to_steady(SystemTime::min(), kSystemNow, kNow), kNow);
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
