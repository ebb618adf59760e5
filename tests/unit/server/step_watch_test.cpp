#include "server/step_watch.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace kvcrush {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Without the watch's thread: the test says when to look, and what time it is.
class Steps : public ::testing::Test {
 protected:
  void check(seconds at) { watch_.check(start_ + at); }

  const StepWatch::Clock::time_point start_{seconds(5000)};
  StepProgress progress_;
  std::vector<std::pair<bool, StepWatch::Clock::duration>> changes_;
  StepWatch watch_{progress_, seconds(100'000), [this](bool stalled, StepWatch::Clock::duration step) {
                     changes_.emplace_back(stalled, step);
                   }};
};

TEST_F(Steps, IdleEngineIsNotStalled) {
  check(seconds(1'000'000));
  progress_.began(start_);
  progress_.finished();
  check(seconds(2'000'000));
  EXPECT_TRUE(changes_.empty());
  EXPECT_EQ(progress_.running_for(start_), std::nullopt);
}

TEST_F(Steps, SaysOnceThatAStepHangsAndOnceThatItIsDone) {
  progress_.began(start_);
  check(seconds(99'999));
  EXPECT_TRUE(changes_.empty());
  EXPECT_EQ(watch_.stalled_for(start_ + seconds(99'999)), std::nullopt);
  check(seconds(100'000));
  check(seconds(100'500));
  ASSERT_EQ(changes_.size(), 1u);
  EXPECT_EQ(changes_[0], std::pair(true, StepWatch::Clock::duration(seconds(100'000))));
  EXPECT_EQ(watch_.stalled_for(start_ + seconds(100'500)), seconds(100'500));
  progress_.finished();
  EXPECT_EQ(watch_.stalled_for(start_ + seconds(100'501)), std::nullopt);
  check(seconds(100'501));
  check(seconds(100'502));
  ASSERT_EQ(changes_.size(), 2u);
  EXPECT_EQ(changes_[1], std::pair(false, StepWatch::Clock::duration(seconds(100'500))));
}

TEST_F(Steps, ManyQuickStepsAreNoSlowOne) {
  for (int i = 0; i < 50; ++i) {
    progress_.began(start_ + seconds(90'000) * i);
    check(seconds(90'000) * i + seconds(89'000));
    progress_.finished();
  }
  EXPECT_TRUE(changes_.empty());
}

TEST_F(Steps, ANewStepEndsTheStallOfTheLast) {
  progress_.began(start_);
  check(seconds(200'000));
  progress_.finished();
  progress_.began(start_ + seconds(200'001));
  check(seconds(200'002));
  ASSERT_EQ(changes_.size(), 2u);
  EXPECT_FALSE(changes_[1].first);
}

TEST(StepWatch, ZeroNeverLooks) {
  StepProgress progress;
  StepWatch watch(progress, milliseconds(0), [](bool, StepWatch::Clock::duration) { FAIL(); });
  progress.began(StepWatch::Clock::time_point());
  watch.check(StepWatch::Clock::now());
  EXPECT_EQ(watch.stalled_for(StepWatch::Clock::now()), std::nullopt);
}

}  // namespace
}  // namespace kvcrush
