// Shutting down: running requests end, late ones are told, new ones are refused.
#include <future>
#include <thread>

#include "tests/unit/server/grpc_harness.h"

namespace kvcrush::test {
namespace {

class Drain : public GrpcTest {
 protected:
  std::future<void> drain() {
    return std::async(std::launch::async, [this] { server_->drain(); });
  }
};

TEST_F(Drain, IdleServerStopsAtOnce) {
  start();
  const auto begin = std::chrono::steady_clock::now();
  server_->drain();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(3));
  server_->drain();  // again: nothing happens
}

TEST_F(Drain, RunningRequestsEndWithinTheTimeout) {
  ServerConfig config = server_config();
  config.drain_timeout = kPatience;
  start(config);
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  backend_->text("r1", "some");
  std::future<void> draining = drain();
  ASSERT_TRUE(backend_->wait_draining());
  grpc::ClientContext late;
  patient(late);
  EXPECT_EQ(read_all(*stub_->Generate(&late, request("late"))).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
  backend_->text("r1", " text");
  static_cast<void>(backend_->finish("r1", FinishReason::kStop, std::nullopt));
  const StreamResult result = read_all(*reader);
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text.at(0), "some text");
  EXPECT_EQ(draining.wait_for(kPatience), std::future_status::ready);
}

TEST_F(Drain, RequestsBeyondTheTimeoutAreAbortedAndTold) {
  start();
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  backend_->text("r1", "some");
  std::future<void> draining = drain();
  const StreamResult result = read_all(*reader);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(result.text.at(0), "some");
  EXPECT_EQ(result.finish.at(0).reason(), v1::FINISH_REASON_ABORT);
  EXPECT_EQ(draining.wait_for(kPatience), std::future_status::ready);
}

TEST_F(Drain, OnceBeyondTheTimeoutIsUnavailable) {
  start();
  grpc::ClientContext context;
  patient(context);
  v1::GenerateOnceResponse response;
  std::future<grpc::Status> once =
      std::async(std::launch::async, [&] { return stub_->GenerateOnce(&context, request("r1"), &response); });
  ASSERT_TRUE(backend_->wait_live("r1"));
  server_->drain();
  EXPECT_EQ(once.get().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(Drain, ClientThatDoesNotReadCannotHoldTheServer) {
  start();
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  for (int i = 0; i < 4000; ++i) backend_->token("r1", kPageToken);
  std::future<void> draining = drain();
  EXPECT_EQ(draining.wait_for(kPatience), std::future_status::ready);
  context.TryCancel();
  EXPECT_FALSE(read_all(*reader).status.ok());
}

TEST_F(Drain, DestructorDrains) {
  start();
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  server_.reset();
  EXPECT_EQ(read_all(*reader).status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace kvcrush::test
