// Generate and GenerateOnce over a real connection: text, ends, cancellation, clients that do not read.
#include <atomic>
#include <thread>

#include "tests/unit/server/grpc_harness.h"

namespace kvcrush::test {
namespace {

using Generate = GrpcTest;

TEST_F(Generate, StreamsTokensAndOneFinish) {
  start();
  backend_->on_submit = [this](const std::string& id) {
    backend_->text(id, "hi \xC3\xA9");
    static_cast<void>(backend_->finish(id, FinishReason::kLength, std::nullopt));
  };
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, request("r1"));
  const StreamResult result = read_all(*reader);
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text.at(0), "hi \xC3\xA9");
  EXPECT_EQ(result.num_tokens, 5);
  EXPECT_EQ(result.num_finishes.at(0), 1);
  EXPECT_EQ(result.finish.at(0).reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(result.finish.at(0).usage().completion_tokens(), 5);
}

TEST_F(Generate, FirstTokenArrivesBeforeTheEnd) {
  start();
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  v1::GenerateResponse chunk;
  backend_->text("r1", "a");
  ASSERT_TRUE(reader->Read(&chunk));
  EXPECT_EQ(chunk.text(), "a");
  EXPECT_EQ(chunk.request_id(), "r1");
  EXPECT_FALSE(chunk.has_finish());
  backend_->text("r1", "b");
  ASSERT_TRUE(reader->Read(&chunk));
  EXPECT_EQ(chunk.text(), "b");
  static_cast<void>(backend_->finish("r1", FinishReason::kStop, std::nullopt));
  EXPECT_EQ(read_all(*reader).finish.at(0).reason(), v1::FINISH_REASON_STOP);
}

TEST_F(Generate, SamplesKeepApart) {
  start();
  v1::GenerateRequest wanted = request("r1");
  wanted.mutable_sampling()->set_n(3);
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, wanted);
  ASSERT_TRUE(backend_->wait_live("r1"));
  for (const char c : std::string("0123456789")) {
    for (int i = 0; i < 3; ++i) backend_->text("r1", std::string(1, static_cast<char>(c + i)), i);
  }
  for (const int i : {1, 0, 2}) static_cast<void>(backend_->finish("r1", FinishReason::kLength, i));
  const StreamResult result = read_all(*reader);
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.text.at(0), "0123456789");
  EXPECT_EQ(result.text.at(1), "123456789:");
  EXPECT_EQ(result.text.at(2), "23456789:;");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(result.num_finishes.at(i), 1);
}

TEST_F(Generate, StopStringEndsTheSampleInTheEngine) {
  start();
  v1::GenerateRequest wanted = request("r1");
  wanted.mutable_sampling()->add_stop("STOP");
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, wanted);
  ASSERT_TRUE(backend_->wait_live("r1"));
  backend_->text("r1", "text STOP");
  const StreamResult result = read_all(*reader);  // ends only because the server told the engine to
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.text.at(0), "text ");
  EXPECT_EQ(result.finish.at(0).reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(result.finish.at(0).stop_match(), "STOP");
  EXPECT_EQ(result.finish.at(0).usage().completion_tokens(), 9);
  EXPECT_EQ(backend_->finished().at(0).second, FinishReason::kStop);
}

TEST_F(Generate, TokensThatGatherDuringAWriteShareAChunk) {
  ServerConfig config = server_config();
  config.limits.max_unread_bytes = 0;
  start(config);
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  constexpr int kPages = 2000;  // 8 MB: far more than a connection takes in before the client reads
  for (int i = 0; i < kPages; ++i) backend_->token("r1", kPageToken);
  static_cast<void>(backend_->finish("r1", FinishReason::kLength, std::nullopt));
  const StreamResult result = read_all(*reader);
  // A chunk above the client's limit of 4 MB would have failed the call.
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text.at(0).size(), std::size_t{kPages} * kPageBytes);
  EXPECT_EQ(result.num_tokens, kPages);
  EXPECT_LT(result.num_chunks, kPages);
}

TEST_F(Generate, OnceAnswersWithEverything) {
  start();
  backend_->on_submit = [this](const std::string& id) {
    for (int i = 0; i < 2; ++i) backend_->text(id, i == 0 ? "first" : "second", i);
    static_cast<void>(backend_->finish(id, FinishReason::kStop, std::nullopt));
  };
  v1::GenerateRequest wanted = request("");
  wanted.mutable_sampling()->set_n(2);
  grpc::ClientContext context;
  patient(context);
  v1::GenerateOnceResponse response;
  const grpc::Status status = stub_->GenerateOnce(&context, wanted, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.request_id().size(), 32u);
  ASSERT_EQ(response.completions_size(), 2);
  EXPECT_EQ(response.completions(0).text(), "first");
  EXPECT_EQ(response.completions(1).text(), "second");
  EXPECT_EQ(response.completions(1).index(), 1);
  EXPECT_EQ(response.completions(1).token_ids_size(), 6);
  EXPECT_EQ(response.completions(1).finish().reason(), v1::FINISH_REASON_STOP);
}

TEST_F(Generate, CancelledStreamAbortsTheRequest) {
  start();
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  context.TryCancel();
  EXPECT_EQ(read_all(*reader).status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(backend_->wait_idle_long());
  EXPECT_EQ(backend_->finished().at(0).second, FinishReason::kAbort);
}

TEST_F(Generate, DeadlineAbortsTheRequest) {
  start();
  for (const bool once : {false, true}) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
    v1::GenerateOnceResponse response;
    const grpc::Status status = once ? stub_->GenerateOnce(&context, request("r1"), &response)
                                     : read_all(*stub_->Generate(&context, request("r1"))).status;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    EXPECT_TRUE(backend_->wait_idle_long());
  }
  ASSERT_EQ(backend_->finished().size(), 2u);
  for (const auto& [id, reason] : backend_->finished()) EXPECT_EQ(reason, FinishReason::kDeadline);
}

TEST_F(Generate, AbortedRequestEndsWithAbortAndOk) {
  start();
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  backend_->text("r1", "so far");
  grpc::ClientContext abort_context;
  v1::AbortRequest abort;
  abort.set_request_id("r1");
  v1::AbortResponse aborted;
  EXPECT_TRUE(stub_->Abort(&abort_context, abort, &aborted).ok());
  const StreamResult result = read_all(*reader);
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text.at(0), "so far");
  EXPECT_EQ(result.finish.at(0).reason(), v1::FINISH_REASON_ABORT);
  grpc::ClientContext second_context;
  EXPECT_EQ(stub_->Abort(&second_context, abort, &aborted).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(Generate, FailedStepIsInternal) {
  start();
  backend_->on_submit = [this](const std::string& id) {
    static_cast<void>(backend_->finish(id, FinishReason::kError, std::nullopt));
  };
  grpc::ClientContext context;
  patient(context);
  const StreamResult result = read_all(*stub_->Generate(&context, request("r1")));
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(result.num_finishes.at(0), 1);
}

TEST_F(Generate, LiveIdIsTakenAndFreeAgainAtTheEnd) {
  start();
  for (int round = 0; round < 20; ++round) {
    grpc::ClientContext context;
    patient(context);
    const auto reader = stub_->Generate(&context, request("same"));
    ASSERT_TRUE(backend_->wait_live("same"));
    if (round == 0) {
      grpc::ClientContext second_context;
      const grpc::Status second = read_all(*stub_->Generate(&second_context, request("same"))).status;
      EXPECT_EQ(second.error_code(), grpc::StatusCode::ALREADY_EXISTS);
      EXPECT_NE(second.error_message().find("request_id is \"same\""), std::string::npos);
    }
    static_cast<void>(backend_->finish("same", FinishReason::kStop, std::nullopt));
    EXPECT_TRUE(read_all(*reader).status.ok()) << "round " << round;
  }
}

TEST_F(Generate, RefusedSubmitFreesTheId) {
  start();
  backend_->refuse_next(1);
  grpc::ClientContext context;
  EXPECT_EQ(read_all(*stub_->Generate(&context, request("r1"))).status.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  grpc::ClientContext again;
  patient(again);
  const auto reader = stub_->Generate(&again, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  static_cast<void>(backend_->finish("r1", FinishReason::kStop, std::nullopt));
  EXPECT_TRUE(read_all(*reader).status.ok());
}

TEST_F(Generate, ClientThatDoesNotReadIsCutOff) {
  ServerConfig config = server_config();
  config.stalled_client_timeout = std::chrono::milliseconds(300);
  config.limits.max_unread_bytes = 0;
  start(config);
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  for (int i = 0; i < 4000; ++i) backend_->token("r1", kPageToken);
  EXPECT_TRUE(backend_->wait_idle_long()) << "the request still runs though nobody reads its text";
  EXPECT_EQ(backend_->finished().at(0).second, FinishReason::kAbort);
  EXPECT_EQ(read_all(*reader).status.error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(Generate, QuietRequestIsNotTakenForAStalledClient) {
  ServerConfig config = server_config();
  config.stalled_client_timeout = std::chrono::milliseconds(100);
  start(config);
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  backend_->text("r1", "a");
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  static_cast<void>(backend_->finish("r1", FinishReason::kStop, std::nullopt));
  EXPECT_TRUE(read_all(*reader).status.ok());
}

// Ends, cancellations and tokens in every order; a sanitizer build finds what touches a call that is gone.
TEST_F(Generate, CancellationsAndEndsMayCoincide) {
  start();
  constexpr int kThreads = 4;
  constexpr int kRounds = 40;
  std::vector<std::jthread> clients;
  for (int t = 0; t < kThreads; ++t) {
    clients.emplace_back([this, t] {
      for (int round = 0; round < kRounds; ++round) {
        const std::string id = "r" + std::to_string(t) + "-" + std::to_string(round);
        grpc::ClientContext context;
        patient(context);
        const auto reader = stub_->Generate(&context, request(id));
        ASSERT_TRUE(backend_->wait_live(id));
        std::jthread engine([this, id] {
          backend_->text(id, "some text");
          static_cast<void>(backend_->finish(id, FinishReason::kStop, std::nullopt));
        });
        if (round % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(round * 20));
        if (round % 3 != 1) context.TryCancel();
        const grpc::Status status = read_all(*reader).status;
        EXPECT_TRUE(status.ok() || round % 3 != 1);
      }
    });
  }
  clients.clear();
  EXPECT_TRUE(backend_->wait_idle_long());
}

}  // namespace
}  // namespace kvcrush::test
