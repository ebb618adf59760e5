#include <gtest/gtest.h>

#include <future>

#include "client/kvcrush_client.h"
#include "tests/unit/client/fake_server.h"

namespace kvcrush::client::test {
namespace {

using namespace std::chrono_literals;

// Counts what comes of a stream, and lets the test wait for its end.
struct Listener final : StreamHandler {
  void on_chunk(const v1::GenerateResponse& chunk) override { text += chunk.text(); }
  void on_end(const Status& status) override { ended.set_value(status); }

  std::string text;
  std::promise<Status> ended;
};

class StartGenerateTest : public ::testing::Test {
 protected:
  Status run(const CallOptions& options = {}, const std::stop_token& stop = {}) {
    auto client = Client::connect(fake_.target());
    EXPECT_TRUE(client.ok());
    client->start_generate({}, listener_, options, stop);
    return listener_->ended.get_future().get();
  }

  FakeServer fake_;
  std::shared_ptr<Listener> listener_ = std::make_shared<Listener>();
};

TEST_F(StartGenerateTest, DeliversChunksInOrderAndThenTheEnd) {
  EXPECT_TRUE(run({.tenant = "free"}).ok());
  EXPECT_EQ(listener_->text, "one two three");
  EXPECT_EQ(fake_.service.metadata().at("x-tenant"), "free");
  for (int i = 0; i < 500 && listener_.use_count() > 1; ++i) std::this_thread::sleep_for(2ms);
  EXPECT_EQ(listener_.use_count(), 1) << "whoever delivers lets go afterwards";
}

TEST_F(StartGenerateTest, CarriesTheHint) {
  fake_.service.refusals = 1;
  fake_.service.retry_after_ms = "70";
  const auto status = run();
  EXPECT_EQ(status.code, Code::kResourceExhausted);
  EXPECT_EQ(status.retry_after, 70ms);
}

TEST_F(StartGenerateTest, EndsAtItsDeadline) {
  fake_.service.endless = true;
  EXPECT_EQ(run({.deadline = std::chrono::system_clock::now() + 50ms}).code, Code::kDeadlineExceeded);
}

TEST_F(StartGenerateTest, StopCancelsBeforeAndWhileItRuns) {
  fake_.service.endless = true;
  std::stop_source stop;
  std::jthread stopper([&] {
    std::this_thread::sleep_for(30ms);
    stop.request_stop();
  });
  EXPECT_EQ(run({}, stop.get_token()).code, Code::kCancelled);
  listener_ = std::make_shared<Listener>();
  EXPECT_EQ(run({}, stop.get_token()).code, Code::kCancelled) << "requested beforehand";
}

TEST_F(StartGenerateTest, RefusesATenantThatNoHeaderCanHold) {
  EXPECT_EQ(run({.tenant = "a\nb"}).code, Code::kInvalidArgument);
  EXPECT_EQ(fake_.service.calls, 0);
}

}  // namespace
}  // namespace kvcrush::client::test
