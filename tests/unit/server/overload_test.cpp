// Too much work, slow clients and an engine that hangs, over a real connection.
#include "tests/unit/server/overload_harness.h"

namespace kvcrush::test {
namespace {

using std::chrono::milliseconds;
using Overload = OverloadTest;

TEST_F(Overload, ShedAnswersSayWhenToComeBack) {
  ServerConfig config = with_http();
  config.engine.max_waiting_sequences = 40;
  start(config);
  for (int i = 0; i < 50; ++i) observer_->on_scheduled({"r", 0}, 0);
  std::this_thread::sleep_for(milliseconds(500));
  backend_->refuse_next(2);
  grpc::ClientContext stream_context;
  const StreamResult stream = generate(stream_context, request("r1"));
  EXPECT_EQ(stream.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(stream.status.error_message(), "queue is full");
  // 40 wait, 50 left in at least half a second: 0.4 s, a quarter more or less, and what the machine lost.
  EXPECT_GE(hint_ms(stream_context), 300);
  EXPECT_LE(hint_ms(stream_context), 5000);
  grpc::ClientContext once_context;
  patient(once_context);
  v1::GenerateOnceResponse response;
  EXPECT_EQ(stub_->GenerateOnce(&once_context, request("r2"), &response).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_GE(hint_ms(once_context), 300);
  EXPECT_TRUE(has_metric("kvcrush_shed_requests_total{reason=\"queue_requests\"} 2"));
  EXPECT_TRUE(has_metric("kvcrush_shed_requests_total{reason=\"queue_tokens\"} 0"));
}

TEST_F(Overload, IdleTimeIsNoSlowService) {
  start();
  observer_->on_scheduled({"r", 0}, 0);
  observer_->on_step({});  // nobody waits any more
  std::this_thread::sleep_for(milliseconds(300));
  backend_->refuse_next(1);
  grpc::ClientContext context;
  EXPECT_EQ(generate(context, request("r1")).status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_LE(hint_ms(context), 1250) << "256 that wait, one that left 0.3 s ago";
}

TEST_F(Overload, TokenBoundIsCountedApart) {
  start(with_http());
  backend_->refusal = "the queue holds 90 of at most 100 waiting prompt tokens";
  backend_->refuse_next(1);
  grpc::ClientContext context;
  EXPECT_EQ(generate(context, request("r1")).status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_GT(hint_ms(context), 0);
  EXPECT_TRUE(has_metric("kvcrush_shed_requests_total{reason=\"queue_tokens\"} 1"));
}

TEST_F(Overload, OtherRefusalsHaveNoHint) {
  start(with_http());
  v1::GenerateRequest wrong = request("r1");
  wrong.mutable_sampling()->set_temperature(-1);
  grpc::ClientContext context;
  EXPECT_EQ(generate(context, wrong).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(context.GetServerTrailingMetadata().find("retry-after-ms") ==
              context.GetServerTrailingMetadata().end());
}

TEST_F(Overload, HintWhileTheModelLoads) {
  server_ = std::make_unique<Server>(with_http());
  ASSERT_TRUE(server_->listen().ok());
  connect();
  grpc::ClientContext context;
  EXPECT_EQ(generate(context, request("r")).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_GE(hint_ms(context), 100);
  grpc::ClientContext tokenize_context;
  patient(tokenize_context);
  v1::TokenizeResponse tokens;
  EXPECT_EQ(stub_->Tokenize(&tokenize_context, {}, &tokens).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_GE(hint_ms(tokenize_context), 100);
  EXPECT_TRUE(has_metric("kvcrush_shed_requests_total{reason=\"loading\"} 2"));
}

TEST_F(Overload, HintWhileDrainingAndForTheAborted) {
  start();
  grpc::ClientContext running_context;
  patient(running_context);
  const auto running = stub_->Generate(&running_context, request("running"));
  ASSERT_TRUE(backend_->wait_live("running"));
  std::jthread drain([this] { server_->drain(); });
  ASSERT_TRUE(backend_->wait_draining());
  grpc::ClientContext late_context;
  EXPECT_EQ(generate(late_context, request("late")).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_GE(hint_ms(late_context), 750);
  EXPECT_LE(hint_ms(late_context), 1250);
  EXPECT_EQ(read_all(*running).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_GE(hint_ms(running_context), 750);
}

TEST_F(Overload, UnreadOutputHasABound) {
  ServerConfig config = with_http();
  config.limits.max_unread_bytes = 256 * 1024;
  start(config);
  connect_with_small_window();  // else the transport itself takes megabytes, more the faster it was found to
                                // be
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  flood("r1");
  ASSERT_TRUE(backend_->wait_idle_long()) << "the request still runs though nobody reads its text";
  EXPECT_EQ(backend_->finished().at(0).second, FinishReason::kAbort);
  EXPECT_TRUE(eventually([this] { return has_metric("kvcrush_ended_slow_streams_total 1"); }));
  const StreamResult result = read_all(*reader);  // now it reads: a beginning of the text, then the reason
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(result.status.error_message().find("allowed: at most 262144 (--max-unread-bytes)"),
            std::string::npos)
      << result.status.error_message();
  EXPECT_EQ(result.num_finishes.size(), 0u);
  EXPECT_LT(result.text.at(0).size(), 1024u * 1024);
  grpc::ClientContext again;
  patient(again);
  const auto next = stub_->Generate(&again, request("r1"));  // the id is free
  ASSERT_TRUE(backend_->wait_live("r1"));
  static_cast<void>(backend_->finish("r1", FinishReason::kStop, std::nullopt));
  EXPECT_TRUE(read_all(*next).status.ok());
}

TEST_F(Overload, EndedStreamThatNobodyReadsIsCutOff) {
  ServerConfig config = with_http();
  config.limits.max_unread_bytes = 256 * 1024;
  config.stalled_client_timeout = milliseconds(300);
  start(config);
  connect_with_small_window();
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  flood("r1");
  ASSERT_TRUE(backend_->wait_idle_long());
  std::this_thread::sleep_for(milliseconds(700));
  EXPECT_EQ(read_all(*reader).status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(has_metric("kvcrush_ended_slow_streams_total 1")) << "one stream counts once";
}

TEST_F(Overload, ManyTokensForAReadingClientAreNoOverrun) {
  ServerConfig config = with_http();
  config.limits.max_unread_bytes = 64 * 1024;
  start(config);
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  std::jthread engine([this] {
    for (int i = 0; i < 200; ++i) {
      backend_->token("r1", kPageToken);  // 0.8 MB in all, ever 4 kB at a time
      std::this_thread::sleep_for(milliseconds(2));
    }
    static_cast<void>(backend_->finish("r1", FinishReason::kLength, std::nullopt));
  });
  const StreamResult result = read_all(*reader);
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.num_tokens, 200);
  EXPECT_TRUE(has_metric("kvcrush_ended_slow_streams_total 0"));
}

TEST_F(Overload, StepThatHangsIsToldAndTakenBack) {
  ServerConfig config = with_http();
  config.limits.step_stall_timeout = milliseconds(100);
  start(config);
  const auto ready = [this] { return http_ask(server_->http_port(), "GET", "/readyz"); };
  std::this_thread::sleep_for(milliseconds(250));
  EXPECT_EQ(ready().status, 200) << "an idle engine is not stalled";
  observer_->on_step_started();
  EXPECT_TRUE(eventually([&] { return has_metric("kvcrush_engine_stalled 1"); }));
  EXPECT_EQ(ready().status, 503);
  EXPECT_EQ(ready().body, "engine step has not finished for 0 s\n");
  EXPECT_TRUE(eventually([this] { return health("") == kNotServing; }));
  observer_->on_step({});
  EXPECT_EQ(ready().status, 200);
  EXPECT_TRUE(eventually([&] { return has_metric("kvcrush_engine_stalled 0"); }));
  EXPECT_TRUE(eventually([this] { return health("") == kServing; }));
  observer_->on_step_started();
  EXPECT_TRUE(eventually([this] { return health("") == kNotServing; }));
  std::jthread drain([this] { server_->drain(); });
  EXPECT_TRUE(eventually([&] { return ready().body == "draining\n"; }));
  observer_->on_step({});
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_NE(health(""), kServing) << "a draining server takes nothing back";
}

}  // namespace
}  // namespace kvcrush::test
