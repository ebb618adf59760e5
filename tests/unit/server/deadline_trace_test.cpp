// What a call brings beside its message: a deadline, and the trace it belongs to.
#include <spdlog/sinks/ostream_sink.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/unit/server/overload_harness.h"

namespace kvcrush::test {
namespace {

using std::chrono::milliseconds;
using CallDeadlines = OverloadTest;
using CallTrace = OverloadTest;

constexpr const char* kParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST_F(CallDeadlines, DeadlineThatPassesBeforeSubmitIsNotSubmitted) {
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

TEST_F(CallDeadlines, DeadlineReachesTheEngine) {
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

TEST_F(CallDeadlines, DeadlineThatTheEngineSeesIsTheStatus) {
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

TEST_F(CallTrace, TraceIsGivenBackAndInEveryLineOfTheRequest) {
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
