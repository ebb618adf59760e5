// A session without its reactor: races that a call over a connection hardly ever loses.
#include "server/generate_session.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <future>
#include <thread>

#include "tests/unit/server/grpc_harness.h"

namespace kvcrush::test {
namespace {

class PlainSession final : public GenerateSession {
 public:
  using GenerateSession::GenerateSession;

  void write_begins() {
    std::lock_guard lock(mutex_);
    write_started_at_ = Clock::now();
  }
  void leaves_unread(std::size_t num_bytes) {
    std::lock_guard lock(mutex_);
    end_slow(num_bytes);
  }

 private:
  void deliver() override {}
};

// Keeps a call open, so that its context lives.
class OpenCall final : public v1::Inference::CallbackService {
 public:
  OpenCall() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    stub_ = v1::Inference::NewStub(
        grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));
    caller_ = std::jthread([this] {
      v1::GetStatsResponse response;
      stub_->GetStats(&client_context_, {}, &response);
    });
    context_ = arrived_.get_future().get();
  }
  ~OpenCall() override {
    reactor_->Finish(grpc::Status::OK);
    caller_.join();
    server_->Shutdown();
  }

  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context, const v1::GetStatsRequest*,
                                     v1::GetStatsResponse*) override {
    reactor_ = context->DefaultReactor();
    arrived_.set_value(context);
    return reactor_;
  }

  grpc::CallbackServerContext* context() { return context_; }

 private:
  std::promise<grpc::CallbackServerContext*> arrived_;
  grpc::CallbackServerContext* context_ = nullptr;
  grpc::ServerUnaryReactor* reactor_ = nullptr;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  grpc::ClientContext client_context_;
  std::jthread caller_;
};

class Session : public ::testing::Test {
 protected:
  Session() {
    host_.backend = &backend_;
    host_.pump = &pump_;
    host_.live = &live_;
    host_.metrics = &metrics_;
    host_.shedding = &shedding_;
    host_.unsent = &unsent_;
  }

  std::shared_ptr<PlainSession> session(const std::string& id,
                                        grpc::CallbackServerContext* context = nullptr) {
    return std::make_shared<PlainSession>(host_, context, id);
  }
  static MappedRequest request(const std::string& id) {
    MappedRequest mapped;
    mapped.engine.request_id = id;
    mapped.applied.resize(1);
    return mapped;
  }
  bool shows(const std::string& metric) {
    return metrics_.render().find("\n" + metric + "\n") != std::string::npos;
  }

  ScriptedBackend backend_;
  LiveRequests live_;
  ServerMetrics metrics_{"test"};
  QueueOutflow outflow_;
  UnsentAnswers unsent_{metrics_};
  LoadShedding shedding_{metrics_, outflow_, 1};
  SessionHost host_;
  StreamPump pump_{1};
};

TEST_F(Session, AbortOfARefusedOneSparesTheNextOfItsId) {
  const auto refused = session("r");  // as an Abort found it while it was being submitted
  backend_.refuse_next(1);
  ASSERT_FALSE(refused->start(request("r"), byte_tokenizer()).ok());
  const auto next = session("r");
  ASSERT_TRUE(next->start(request("r"), byte_tokenizer()).ok());
  EXPECT_EQ(refused->abort().code(), StatusCode::kNotFound);
  EXPECT_EQ(backend_.finished().size(), 0u);
  EXPECT_TRUE(next->abort().ok());
  EXPECT_EQ(backend_.finished().size(), 1u);
}

TEST_F(Session, SlowStreamCountsOnceWhicheverBoundIsFirst) {
  OpenCall stalled_call;
  const auto stalled = session("stalled", stalled_call.context());
  stalled->write_begins();
  stalled->check_stalled(GenerateSession::Clock::now() + std::chrono::hours(1), std::chrono::seconds(1));
  EXPECT_TRUE(shows("kvcrush_ended_slow_streams_total 1"));
  stalled->leaves_unread(1000);
  EXPECT_TRUE(shows("kvcrush_ended_slow_streams_total 1"));
  OpenCall full_call;
  const auto full = session("full", full_call.context());
  full->write_begins();
  full->leaves_unread(1000);
  EXPECT_TRUE(shows("kvcrush_ended_slow_streams_total 2"));
  full->check_stalled(GenerateSession::Clock::now() + std::chrono::hours(1), std::chrono::seconds(1));
  EXPECT_TRUE(shows("kvcrush_ended_slow_streams_total 2"));
}

}  // namespace
}  // namespace kvcrush::test
