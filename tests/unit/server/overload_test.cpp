// Too much work, slow clients, late calls and an engine that hangs, over a real connection.
#include <spdlog/sinks/ostream_sink.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "tests/unit/server/grpc_harness.h"
#include "tests/unit/server/http_client.h"

namespace kvcrush::test {
namespace {

using std::chrono::milliseconds;

constexpr int kServing = 1;  // as health() gives it
constexpr int kNotServing = 2;
constexpr const char* kParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

class Overload : public GrpcTest {
 protected:
  // A Generate call to its end; `context` keeps the metadata.
  StreamResult generate(grpc::ClientContext& context, const v1::GenerateRequest& wanted) {
    patient(context);
    return read_all(*stub_->Generate(&context, wanted));
  }

  // What the trailing metadata holds under `key`; -1: not exactly one number.
  static int trailing_ms(const grpc::ClientContext& context, const std::string& key) {
    const auto& metadata = context.GetServerTrailingMetadata();
    if (metadata.count(key) != 1) return -1;
    const grpc::string_ref value = metadata.find(key)->second;
    return std::stoi(std::string(value.data(), value.size()));
  }

  static int hint_ms(const grpc::ClientContext& context) {
    const int hint = trailing_ms(context, "retry-after-ms");
    EXPECT_EQ(trailing_ms(context, "grpc-retry-pushback-ms"), hint);
    return hint;
  }

  static std::string initial(const grpc::ClientContext& context, const std::string& key) {
    const auto& metadata = context.GetServerInitialMetadata();
    const auto found = metadata.find(key);
    return found == metadata.end() ? "" : std::string(found->second.data(), found->second.size());
  }

  std::string metrics() { return http_ask(server_->http_port(), "GET", "/metrics").body; }
  bool has_metric(const std::string& line) { return metrics().find("\n" + line + "\n") != std::string::npos; }

  template <typename Condition>
  static bool eventually(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(milliseconds(5));
    }
    return true;
  }

  // 16 MB in bursts, as steps would bring it: far more than a connection takes in before the client reads.
  void flood(const std::string& id) {
    for (int i = 0; i < 4000; ++i) {
      backend_->token(id, kPageToken);
      if (i % 200 == 0) std::this_thread::sleep_for(milliseconds(5));
    }
  }

  // A connection that takes in next to nothing before the client reads.
  void connect_with_small_window() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1024);
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    channel_ = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->grpc_port()),
                                         grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Inference::NewStub(channel_);
  }

  static ServerConfig with_http() {
    ServerConfig config = server_config();
    config.http_listen = "127.0.0.1:0";
    return config;
  }
};

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

TEST_F(Overload, TokenBoundIsCountedApart) {
  start(with_http());
  backend_->refusal = "the queue holds 90 of at most 100 prompt tokens";
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
  EXPECT_LT(result.text.at(0).size(), 4u * 1024 * 1024);
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

TEST_F(Overload, DeadlineThatPassesBeforeSubmitIsNotSubmitted) {
  ServerConfig config = with_http();
  start(config);
  backend_->on_mapping = [] { std::this_thread::sleep_for(milliseconds(300)); };
  backend_->on_submit = [](const std::string&) { FAIL() << "nobody waits for this request"; };
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(100));
  EXPECT_EQ(read_all(*stub_->Generate(&context, request("r1"))).status.error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(eventually(
      [this] { return has_metric("kvcrush_rejected_requests_total{code=\"DEADLINE_EXCEEDED\"} 1"); }));
}

TEST_F(Overload, DeadlineReachesTheEngine) {
  start();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  const std::optional<std::chrono::steady_clock::time_point> deadline = backend_->last_request().deadline;
  ASSERT_TRUE(deadline.has_value());
  const auto left = *deadline - std::chrono::steady_clock::now();
  EXPECT_GT(left, kPatience / 2);
  EXPECT_LE(left, kPatience + std::chrono::seconds(1));
  static_cast<void>(backend_->finish("r1", FinishReason::kStop, std::nullopt));
  EXPECT_TRUE(read_all(*reader).status.ok());
  grpc::ClientContext without;
  const auto endless = stub_->Generate(&without, request("r2"));
  ASSERT_TRUE(backend_->wait_live("r2"));
  EXPECT_FALSE(backend_->last_request().deadline.has_value());
  static_cast<void>(backend_->finish("r2", FinishReason::kStop, std::nullopt));
  EXPECT_TRUE(read_all(*endless).status.ok());
}

TEST_F(Overload, DeadlineThatTheEngineSeesIsTheStatus) {
  start();
  backend_->on_submit = [this](const std::string& id) {
    static_cast<void>(backend_->finish(id, FinishReason::kDeadline, std::nullopt));
  };
  grpc::ClientContext context;
  const StreamResult result = generate(context, request("r1"));
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(result.status.error_message(), "deadline passed after 0 ms in queue");
  EXPECT_EQ(result.finish.at(0).reason(), v1::FINISH_REASON_DEADLINE);
}

TEST_F(Overload, TraceIsGivenBackAndInEveryLineOfTheRequest) {
  auto lines = std::make_shared<std::ostringstream>();
  init_logging({"debug", LogFormat::kJson}, {std::make_shared<spdlog::sinks::ostream_sink_mt>(*lines)});
  start();
  backend_->on_submit = [this](const std::string& id) {
    static_cast<void>(backend_->finish(id, FinishReason::kStop, std::nullopt));
  };
  grpc::ClientContext context;
  context.AddMetadata("traceparent", kParent);
  context.AddMetadata("tracestate", "a=1");
  context.AddMetadata("tracestate", "b=2");
  EXPECT_TRUE(generate(context, request("traced")).status.ok());
  EXPECT_EQ(initial(context, "traceparent"), kParent);
  EXPECT_EQ(initial(context, "tracestate"), "a=1,b=2");
  backend_->refuse_next(1);
  grpc::ClientContext refused;
  refused.AddMetadata("traceparent", kParent);
  EXPECT_FALSE(generate(refused, request("traced")).status.ok());
  for (const bool twice : {false, true}) {
    grpc::ClientContext malformed;
    malformed.AddMetadata("traceparent", twice ? kParent : "00-nonsense");
    if (twice) malformed.AddMetadata("traceparent", kParent);
    malformed.AddMetadata("tracestate", "a=1");
    EXPECT_TRUE(generate(malformed, request("untraced")).status.ok());
    EXPECT_EQ(initial(malformed, "traceparent") + initial(malformed, "tracestate"), "");
  }
  server_.reset();
  init_logging({});
  std::map<std::string, int> num_lines;
  std::istringstream text(lines->str());
  for (std::string line; std::getline(text, line);) {
    const nlohmann::json entry = nlohmann::json::parse(line);
    const std::string id = entry.value("request_id", "");
    const bool traced = entry.contains("trace_id");
    EXPECT_EQ(traced, id == "traced") << line;
    EXPECT_EQ(entry.value("span_id", ""), traced ? "b7ad6b7169203331" : "");
    ++num_lines[id];
  }
  EXPECT_EQ(num_lines["traced"], 3);  // arrived; arrived, rejected
  EXPECT_EQ(num_lines["untraced"], 2);
}

}  // namespace
}  // namespace kvcrush::test
