// Score over a real connection: results, failures, cancellation, ids, and variants of Generate.
#include <future>

#include "tests/unit/server/grpc_harness.h"

namespace kvcrush::test {
namespace {

class Score : public GrpcTest {
 protected:
  static v1::ScoreRequest score_request(const std::string& id) {
    v1::ScoreRequest request;
    request.set_request_id(id);
    request.set_text("hello");
    request.set_continuation_text("abc");
    return request;
  }

  // One call on a thread of its own.
  std::future<grpc::Status> call(const v1::ScoreRequest& request) {
    patient(context_);
    return std::async(std::launch::async,
                      [this, request] { return stub_->Score(&context_, request, &response_); });
  }

  grpc::ClientContext context_;
  v1::ScoreResponse response_;
};

TEST_F(Score, AnswersWithOneResultPerVariant) {
  start();
  backend_->on_submit = [this](const std::string& id) {
    backend_->score(id, {-3, -4, -5}, 1);  // in whatever order they come
    backend_->score(id, {-1, -2, -0.5}, 0);
    static_cast<void>(backend_->finish(id, FinishReason::kLength, std::nullopt));
  };
  v1::ScoreRequest request = score_request("s1");
  request.add_variants()->set_policy(v1::BASE_POLICY_OFF);
  request.add_variants()->set_kv_dtype(v1::KV_DTYPE_INT4);
  const grpc::Status status = call(request).get();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response_.request_id(), "s1");
  EXPECT_EQ(
      std::vector<int>(response_.continuation_token_ids().begin(), response_.continuation_token_ids().end()),
      (std::vector<int>{'a', 'b', 'c'}));
  ASSERT_EQ(response_.full_logprobs_size(), 3);
  EXPECT_EQ(response_.full_logprobs(2), -1.0f);
  ASSERT_EQ(response_.variants_size(), 2);
  const v1::VariantScore& second = response_.variants(1);
  EXPECT_EQ(second.index(), 1);
  ASSERT_EQ(second.logprobs_size(), 3);
  EXPECT_EQ(second.logprobs(1), -4.0f);
  EXPECT_EQ(second.kl_divergences(2), -5.0f);
  ASSERT_EQ(second.top1_agrees_size(), 3);
  EXPECT_TRUE(second.top1_agrees(0));
  EXPECT_FALSE(second.top1_agrees(2));
  EXPECT_EQ(second.compression().applied().kv_dtype(), v1::KV_DTYPE_INT4);
  EXPECT_EQ(second.usage().prompt_tokens(), 5);
  EXPECT_EQ(response_.variants(0).logprobs(2), -0.5f);
  EXPECT_TRUE(backend_->last_request().compare_to_full);
  EXPECT_EQ(backend_->last_request().continuation_token_ids, bytes_of("abc"));
}

TEST_F(Score, CancelledCallAbortsTheRequest) {
  start();
  std::future<grpc::Status> answer = call(score_request("s1"));
  ASSERT_TRUE(backend_->wait_live("s1"));
  context_.TryCancel();
  EXPECT_EQ(answer.get().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(backend_->wait_idle_long());
  EXPECT_EQ(backend_->finished().at(0).second, FinishReason::kAbort);
}

TEST_F(Score, AbortedRequestSaysSo) {
  start();
  std::future<grpc::Status> answer = call(score_request("s1"));
  ASSERT_TRUE(backend_->wait_live("s1"));
  v1::AbortRequest abort;
  abort.set_request_id("s1");
  v1::AbortResponse aborted;
  grpc::ClientContext abort_context;
  EXPECT_TRUE(stub_->Abort(&abort_context, abort, &aborted).ok());
  EXPECT_EQ(answer.get().error_code(), grpc::StatusCode::ABORTED);
}

TEST_F(Score, FailedStepIsInternal) {
  start();
  backend_->on_submit = [this](const std::string& id) {
    backend_->score(id, {-1, -2, -3});
    static_cast<void>(backend_->finish(id, FinishReason::kError, std::nullopt));
  };
  EXPECT_EQ(call(score_request("s1")).get().error_code(), grpc::StatusCode::INTERNAL);
}

TEST_F(Score, LiveIdIsTakenByBothCallsAndFreeAgainAtTheEnd) {
  start();
  std::future<grpc::Status> answer = call(score_request("same"));
  ASSERT_TRUE(backend_->wait_live("same"));
  grpc::ClientContext second_context;
  v1::ScoreResponse second_response;
  EXPECT_EQ(stub_->Score(&second_context, score_request("same"), &second_response).error_code(),
            grpc::StatusCode::ALREADY_EXISTS);
  grpc::ClientContext generate_context;
  EXPECT_EQ(read_all(*stub_->Generate(&generate_context, request("same"))).status.error_code(),
            grpc::StatusCode::ALREADY_EXISTS);
  backend_->score("same", {-1, -2, -3});
  static_cast<void>(backend_->finish("same", FinishReason::kLength, std::nullopt));
  EXPECT_TRUE(answer.get().ok());
  grpc::ClientContext third_context;
  patient(third_context);
  const auto reader = stub_->Generate(&third_context, request("same"));
  ASSERT_TRUE(backend_->wait_live("same"));
  static_cast<void>(backend_->finish("same", FinishReason::kStop, std::nullopt));
  EXPECT_TRUE(read_all(*reader).status.ok());
}

TEST_F(Score, RefusalsCarryTheReason) {
  start();
  v1::ScoreRequest wrong = score_request("s1");
  wrong.set_continuation_text("a");
  const grpc::Status status = call(wrong).get();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(status.error_message().starts_with("continuation_text is 1 tokens")) << status.error_message();
  backend_->refuse_next(1);
  grpc::ClientContext second_context;
  EXPECT_EQ(stub_->Score(&second_context, score_request("s1"), &response_).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(Score, DrainTimeoutMakesItUnavailable) {
  start();
  std::future<grpc::Status> answer = call(score_request("s1"));
  ASSERT_TRUE(backend_->wait_live("s1"));
  server_->drain();
  EXPECT_EQ(answer.get().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(Score, VariantsOfGenerateReportWhatWasApplied) {
  start();
  v1::GenerateRequest wanted = request("g1");
  wanted.add_variants()->set_policy(v1::BASE_POLICY_OFF);
  v1::KvCompression& pruned = *wanted.add_variants();
  pruned.set_policy(v1::BASE_POLICY_KNORM);
  pruned.set_budget_tokens(64);
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, wanted);
  ASSERT_TRUE(backend_->wait_live("g1"));
  for (int i = 0; i < 2; ++i) backend_->text("g1", std::string(1, static_cast<char>('a' + i)), i);
  static_cast<void>(backend_->finish("g1", FinishReason::kLength, std::nullopt));
  const StreamResult result = read_all(*reader);
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text.at(1), "b");
  EXPECT_EQ(result.finish.at(0).compression().applied().policy(), v1::BASE_POLICY_OFF);
  const v1::KvCompression& applied = result.finish.at(1).compression().applied();
  EXPECT_EQ(applied.policy(), v1::BASE_POLICY_KNORM);
  EXPECT_EQ(applied.budget_tokens(), 64);
  EXPECT_EQ(applied.pool_kernel_tokens(), 1);
}

}  // namespace
}  // namespace kvcrush::test
