#include "client/kvcrush_client.h"

#include <gtest/gtest.h>

#include <future>

#include "tests/unit/client/fake_server.h"

namespace kvcrush::client::test {
namespace {

using namespace std::chrono_literals;

class ClientTest : public ::testing::Test {
 protected:
  Client connect(ClientOptions options = {}) {
    auto client = Client::connect(fake_.target(), std::move(options));
    EXPECT_TRUE(client.ok()) << client.status().to_string();
    return std::move(*client);
  }

  FakeServer fake_;
  v1::GenerateRequest request_;
  OnChunk ignore_ = [](const v1::GenerateResponse&) { return true; };
};

TEST_F(ClientTest, StreamsChunksInOrderAndSendsTheWholeRequest) {
  request_.set_text("hello");
  request_.mutable_sampling()->set_temperature(0);
  request_.mutable_compression()->set_budget_fraction(0.25);
  std::string text;
  int finishes = 0;
  auto client = connect();
  const auto status = client.generate(request_, [&](const v1::GenerateResponse& chunk) {
    text += chunk.text();
    finishes += chunk.has_finish() ? 1 : 0;
    return true;
  });
  EXPECT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(text, "one two three");
  EXPECT_EQ(finishes, 1);
  EXPECT_EQ(fake_.service.last_request.SerializeAsString(), request_.SerializeAsString());
  EXPECT_FALSE(fake_.service.saw_deadline);
}

TEST_F(ClientTest, CarriesCodeAndMessageOfAFailure) {
  fake_.service.ending = {grpc::StatusCode::INVALID_ARGUMENT, "sampling.top_p is 2, allowed: (0, 1]"};
  auto client = connect();
  const auto status = client.generate(request_, ignore_);
  EXPECT_EQ(status.code, Code::kInvalidArgument);
  EXPECT_EQ(status.message, "sampling.top_p is 2, allowed: (0, 1]");
  EXPECT_EQ(status.to_string(), "INVALID_ARGUMENT: sampling.top_p is 2, allowed: (0, 1]");
  EXPECT_EQ(client.generate_once(request_).status().code, Code::kInvalidArgument);
  EXPECT_EQ(client.stats().status().code, Code::kInvalidArgument);
}

TEST_F(ClientTest, StopTokenCancelsAStreamFromAnotherThread) {
  fake_.service.endless = true;
  auto client = connect();
  std::stop_source stop;
  std::promise<void> first_chunk;
  bool told = false;
  auto call = std::async(std::launch::async, [&] {
    return client.generate(
        request_,
        [&](const v1::GenerateResponse&) {
          if (!told) first_chunk.set_value();
          told = true;
          return true;
        },
        stop.get_token());
  });
  first_chunk.get_future().wait();
  stop.request_stop();
  EXPECT_EQ(call.get().code, Code::kCancelled);
  for (int i = 0; i < 500 && !fake_.service.saw_cancel; ++i) std::this_thread::sleep_for(2ms);
  EXPECT_TRUE(fake_.service.saw_cancel);
}

TEST_F(ClientTest, StopTokenCancelsAUnaryCall) {
  fake_.service.endless = true;
  auto client = connect();
  std::stop_source stop;
  auto call =
      std::async(std::launch::async, [&] { return client.generate_once(request_, stop.get_token()); });
  std::this_thread::sleep_for(20ms);
  stop.request_stop();
  EXPECT_EQ(call.get().status().code, Code::kCancelled);
}

TEST_F(ClientTest, ScoreSendsTheRequestAndReturnsAllVariants) {
  v1::ScoreRequest score;
  score.set_text("hello");
  score.set_continuation_text("world");
  score.add_variants()->set_kv_dtype(v1::KV_DTYPE_INT4);
  score.add_variants()->set_target_compression(8);
  auto client = connect();
  const auto response = client.score(score);
  ASSERT_TRUE(response.ok()) << response.status().to_string();
  EXPECT_EQ(response->variants_size(), 2);
  EXPECT_EQ(fake_.service.last_score.SerializeAsString(), score.SerializeAsString());
  fake_.service.ending = {grpc::StatusCode::ABORTED, "aborted"};
  EXPECT_EQ(client.score(score).status().code, Code::kAborted);
}

TEST_F(ClientTest, StopTokenCancelsAScore) {
  fake_.service.endless = true;
  auto client = connect();
  std::stop_source stop;
  auto call =
      std::async(std::launch::async, [&] { return client.score(v1::ScoreRequest(), stop.get_token()); });
  std::this_thread::sleep_for(20ms);
  stop.request_stop();
  EXPECT_EQ(call.get().status().code, Code::kCancelled);
}

TEST_F(ClientTest, StopRequestedBeforehandCancelsAtOnce) {
  fake_.service.endless = true;
  auto client = connect();
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(client.generate(request_, ignore_, stop.get_token()).code, Code::kCancelled);
}

TEST_F(ClientTest, CallbackThatReturnsFalseCancels) {
  fake_.service.endless = true;
  auto client = connect();
  int chunks = 0;
  const auto status = client.generate(request_, [&](const v1::GenerateResponse&) { return ++chunks < 3; });
  EXPECT_EQ(status.code, Code::kCancelled);
  EXPECT_EQ(chunks, 3) << "no chunk may be delivered after the callback said no";
}

TEST_F(ClientTest, CallTimeoutIsADeadline) {
  fake_.service.endless = true;
  auto client = connect({.connect_timeout = 5s, .call_timeout = 50ms, .credentials = nullptr});
  EXPECT_EQ(client.generate(request_, ignore_).code, Code::kDeadlineExceeded);
  EXPECT_TRUE(fake_.service.saw_deadline);
}

TEST_F(ClientTest, UnaryCallsReturnTheirMessages) {
  auto client = connect();
  EXPECT_EQ(client.generate_once(request_)->completions(0).text(), "one two three");
  v1::TokenizeRequest tokenize;
  tokenize.set_text("ab");
  const auto tokens = client.tokenize(tokenize);
  ASSERT_EQ(tokens->token_ids_size(), 2);
  EXPECT_EQ(tokens->token_ids(1), 'b');
  v1::DetokenizeRequest detokenize;
  detokenize.add_token_ids('x');
  EXPECT_EQ(client.detokenize(detokenize)->text(), "x");
  EXPECT_EQ(client.model_info()->model_name(), "fake");
  EXPECT_EQ(client.stats()->blocks_total(), 42);
  EXPECT_TRUE(client.abort("known").ok());
  EXPECT_EQ(client.abort("gone").to_string(), "NOT_FOUND: no request named gone");
}

TEST_F(ClientTest, ReceivesMessagesPastTheDefaultLimitOfGrpc) {
  fake_.service.chunks = {std::string(6 << 20, 'x')};
  auto client = connect();
  const auto response = client.generate_once(request_);
  ASSERT_TRUE(response.ok()) << response.status().to_string();
  EXPECT_EQ(response->completions(0).text().size(), std::size_t{6} << 20);
}

TEST(ClientConnect, NamesTheTargetWhenNobodyAnswers) {
  const auto client =
      Client::connect("127.0.0.1:1", {.connect_timeout = 100ms, .call_timeout = {}, .credentials = {}});
  ASSERT_FALSE(client.ok());
  EXPECT_EQ(client.status().code, Code::kUnavailable);
  EXPECT_NE(client.status().message.find("127.0.0.1:1"), std::string::npos) << client.status().message;
}

TEST(ClientConnect, CanBeInterrupted) {
  std::stop_source stop;
  stop.request_stop();
  const auto start = std::chrono::steady_clock::now();
  const auto client = Client::connect("127.0.0.1:1", {}, stop.get_token());
  EXPECT_EQ(client.status().code, Code::kCancelled);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 2s);
}

TEST(ClientStatus, NamesEveryGrpcCode) {
  EXPECT_EQ(to_string(Code::kOk), "OK");
  EXPECT_EQ(to_string(static_cast<Code>(grpc::StatusCode::RESOURCE_EXHAUSTED)), "RESOURCE_EXHAUSTED");
  EXPECT_EQ(to_string(static_cast<Code>(grpc::StatusCode::UNAUTHENTICATED)), "UNAUTHENTICATED");
  EXPECT_EQ(to_string(static_cast<Code>(99)), "CODE_99");
}

}  // namespace
}  // namespace kvcrush::client::test
