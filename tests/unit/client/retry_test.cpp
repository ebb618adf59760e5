#include "client/retry.h"

#include <gtest/gtest.h>

#include "client/kvcrush_client.h"
#include "tests/unit/client/fake_server.h"

namespace kvcrush::client::test {
namespace {

using namespace std::chrono_literals;

Status failure(Code code, std::optional<std::chrono::milliseconds> retry_after = {}) {
  return {code, "no", retry_after};
}

TEST(RetryWait, OnlyWhatMayPassIsTriedAgain) {
  const RetryOptions options{.max_retries = 3};
  for (int number = 1; number <= 16; ++number) {
    const auto code = static_cast<Code>(number);
    const bool passes = code == Code::kResourceExhausted || code == Code::kUnavailable;
    EXPECT_EQ(retry_wait(options, failure(code), 1, 0).has_value(), passes) << to_string(code);
  }
  EXPECT_FALSE(retry_wait(options, failure(Code::kUnavailable), 4, 0)) << "three retries and no more";
  EXPECT_FALSE(retry_wait({}, failure(Code::kUnavailable), 1, 0)) << "none unless asked for";
}

TEST(RetryWait, IsAtLeastWhatTheServerAsksForAndUpToAQuarterMore) {
  const RetryOptions options{.max_retries = 3};
  const auto hinted = failure(Code::kResourceExhausted, 400ms);
  EXPECT_EQ(retry_wait(options, hinted, 1, 0), 400ms);
  EXPECT_EQ(retry_wait(options, hinted, 3, 0.5), 450ms) << "the server's word does not grow with the tries";
  EXPECT_LE(*retry_wait(options, hinted, 1, 0.999), 500ms);
  EXPECT_EQ(retry_wait(options, failure(Code::kUnavailable, 0ms), 1, 0.9), 0ms);
  EXPECT_FALSE(retry_wait(options, failure(Code::kUnavailable, 61s), 1, 0)) << "too long to wait for";
}

TEST(RetryWait, DoublesUpToABoundWhereTheServerSaysNothing) {
  const RetryOptions options{.max_retries = 50, .initial_backoff = 100ms, .max_backoff = 1s};
  const auto plain = failure(Code::kUnavailable);
  EXPECT_EQ(retry_wait(options, plain, 1, 0), 50ms);
  EXPECT_EQ(retry_wait(options, plain, 1, 0.5), 75ms);
  EXPECT_EQ(retry_wait(options, plain, 3, 0), 200ms);
  EXPECT_EQ(retry_wait(options, plain, 4, 0), 400ms);
  EXPECT_EQ(retry_wait(options, plain, 50, 0), 500ms);
}

class RetryTest : public ::testing::Test {
 protected:
  Client connect(int max_retries, std::optional<std::chrono::milliseconds> call_timeout = {}) {
    ClientOptions options;
    options.retry.max_retries = max_retries;
    options.call_timeout = call_timeout;
    auto client = Client::connect(fake_.target(), options);
    EXPECT_TRUE(client.ok()) << client.status().to_string();
    return std::move(*client);
  }

  Status generate(Client& client, const std::stop_token& stop = {}) {
    return client.generate(
        {}, [this](const v1::GenerateResponse& chunk) { return text_ += chunk.text(), true; }, stop);
  }

  FakeServer fake_;
  std::string text_;
};

TEST_F(RetryTest, WaitsAsTheTrailingMetadataAsks) {
  fake_.service.refusals = 2;
  fake_.service.retry_after_ms = "60";
  auto client = connect(5);
  const auto start = std::chrono::steady_clock::now();
  const auto status = generate(client);
  EXPECT_TRUE(status.ok()) << status.to_string();
  EXPECT_GE(std::chrono::steady_clock::now() - start, 120ms);
  EXPECT_EQ(text_, "one two three") << "nothing twice";
  EXPECT_EQ(fake_.service.calls, 3);
}

TEST_F(RetryTest, WithoutRetriesTheHintIsToldToTheCaller) {
  fake_.service.refusals = 1;
  fake_.service.retry_after_ms = "1234";
  auto client = connect(0);
  const auto status = generate(client);
  EXPECT_EQ(status.code, Code::kResourceExhausted);
  EXPECT_EQ(status.retry_after, 1234ms);
  EXPECT_EQ(fake_.service.calls, 1);
}

TEST_F(RetryTest, AHintThatIsNoNumberIsNone) {
  for (const char* hint : {"soon", "-5", "1.5", "99999999999999"}) {
    fake_.service.refusals = 1;
    fake_.service.retry_after_ms = hint;
    auto client = connect(0);
    EXPECT_FALSE(generate(client).retry_after.has_value()) << hint;
  }
}

TEST_F(RetryTest, GivesUpAfterSoManyTries) {
  fake_.service.refusals = 100;
  fake_.service.retry_after_ms = "1";
  auto client = connect(2);
  EXPECT_EQ(generate(client).code, Code::kResourceExhausted);
  EXPECT_EQ(client.generate_once({}).status().code, Code::kResourceExhausted);
  EXPECT_EQ(fake_.service.calls, 6);
}

TEST_F(RetryTest, WhatHasBegunIsNotTriedAgain) {
  fake_.service.ending = {grpc::StatusCode::UNAVAILABLE, "gone in the middle"};
  auto client = connect(5);
  EXPECT_EQ(generate(client).code, Code::kUnavailable);
  EXPECT_EQ(text_, "one two three");
  EXPECT_EQ(fake_.service.calls, 1);
}

TEST_F(RetryTest, DoesNotWaitPastTheDeadline) {
  fake_.service.refusals = 100;
  fake_.service.retry_after_ms = "5000";
  auto client = connect(5, 1s);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(generate(client).code, Code::kResourceExhausted);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 1s);
}

TEST_F(RetryTest, AStopEndsTheWait) {
  fake_.service.refusals = 100;
  fake_.service.retry_after_ms = "30000";
  auto client = connect(5);
  std::stop_source stop;
  std::jthread stopper([&] {
    while (fake_.service.calls == 0) std::this_thread::sleep_for(1ms);
    std::this_thread::sleep_for(20ms);
    stop.request_stop();
  });
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(generate(client, stop.get_token()).code, Code::kCancelled);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
}

}  // namespace
}  // namespace kvcrush::client::test
