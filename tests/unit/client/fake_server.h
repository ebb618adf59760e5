// An Inference service in this process: answers as told and remembers what it was asked.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kvcrush/v1/inference.grpc.pb.h"

namespace kvcrush::client::test {

class FakeInference final : public v1::Inference::Service {
 public:
  std::vector<std::string> chunks = {"one ", "two ", "three"};
  bool endless = false;  // repeats the first chunk until the call is cancelled
  grpc::Status ending = grpc::Status::OK;
  std::atomic<bool> saw_cancel{false};
  std::atomic<bool> saw_deadline{false};
  // The first so many calls are refused so, with this in the trailing metadata unless it is empty.
  std::atomic<int> refusals{0};
  grpc::Status refusal = {grpc::StatusCode::RESOURCE_EXHAUSTED, "queue full"};
  std::string retry_after_ms;
  std::atomic<int> calls{0};
  // Before the first chunk and between two.
  std::chrono::milliseconds pace{0};
  v1::GenerateRequest last_request;
  v1::ScoreRequest last_score;

  // Of the latest call; the last value of each key.
  std::map<std::string, std::string> metadata() const {
    const std::lock_guard lock(mutex_);
    return metadata_;
  }
  std::map<std::string, int> calls_by_tenant() const {
    const std::lock_guard lock(mutex_);
    return calls_by_tenant_;
  }

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    remember(*context, *request);
    if (refuses(*context)) return refusal;
    saw_deadline = context->deadline() < std::chrono::system_clock::now() + std::chrono::hours(1);
    while (endless && !context->IsCancelled()) {
      writer->Write(chunk_of(0));
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    if (endless) {
      saw_cancel = true;
      return {grpc::StatusCode::CANCELLED, "cancelled"};
    }
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      std::this_thread::sleep_for(pace);
      writer->Write(chunk_of(i));
    }
    return ending;
  }

  grpc::Status GenerateOnce(grpc::ServerContext* context, const v1::GenerateRequest* request,
                            v1::GenerateOnceResponse* response) override {
    remember(*context, *request);
    if (refuses(*context)) return refusal;
    while (endless && !context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    saw_cancel = context->IsCancelled();
    auto* completion = response->add_completions();
    for (const auto& chunk : chunks) completion->mutable_text()->append(chunk);
    return ending;
  }

  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override {
    last_score = *request;
    while (endless && !context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    saw_cancel = context->IsCancelled();
    for (int i = 0; i < request->variants_size(); ++i) response->add_variants()->set_index(i);
    return ending;
  }

  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    for (const char c : request->text()) response->add_token_ids(c);
    return ending;
  }

  grpc::Status Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    for (const int id : request->token_ids()) response->mutable_text()->push_back(static_cast<char>(id));
    return ending;
  }

  grpc::Status GetModelInfo(grpc::ServerContext*, const v1::GetModelInfoRequest*,
                            v1::GetModelInfoResponse* response) override {
    response->set_model_name("fake");
    return ending;
  }

  grpc::Status GetStats(grpc::ServerContext*, const v1::GetStatsRequest*,
                        v1::GetStatsResponse* response) override {
    response->set_blocks_total(42);
    return ending;
  }

  grpc::Status Abort(grpc::ServerContext*, const v1::AbortRequest* request, v1::AbortResponse*) override {
    if (request->request_id() == "known") return grpc::Status::OK;
    return {grpc::StatusCode::NOT_FOUND, "no request named " + request->request_id()};
  }

 private:
  void remember(const grpc::ServerContext& context, const v1::GenerateRequest& request) {
    const std::lock_guard lock(mutex_);
    ++calls;
    last_request = request;
    metadata_.clear();
    for (const auto& [key, value] : context.client_metadata())
      metadata_[{key.data(), key.size()}] = {value.data(), value.size()};
    const auto tenant = metadata_.find("x-tenant");
    if (tenant != metadata_.end()) ++calls_by_tenant_[tenant->second];
  }

  bool refuses(grpc::ServerContext& context) {
    if (refusals.fetch_sub(1) <= 0) return false;
    if (!retry_after_ms.empty()) context.AddTrailingMetadata("retry-after-ms", retry_after_ms);
    return true;
  }

  v1::GenerateResponse chunk_of(std::size_t i) const {
    v1::GenerateResponse response;
    response.set_text(chunks[i]);
    response.add_token_ids(static_cast<int>(i));
    if (i + 1 == chunks.size()) response.mutable_finish()->set_reason(v1::FINISH_REASON_STOP);
    return response;
  }

  mutable std::mutex mutex_;
  std::map<std::string, std::string> metadata_;  // guarded by mutex_
  std::map<std::string, int> calls_by_tenant_;   // guarded by mutex_
};

// The service on a port of its own.
struct FakeServer {
  explicit FakeServer(
      const std::shared_ptr<grpc::ServerCredentials>& credentials = grpc::InsecureServerCredentials()) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", credentials, &port);
    builder.RegisterService(&service);
    server = builder.BuildAndStart();
  }
  ~FakeServer() { server->Shutdown(std::chrono::system_clock::now()); }
  FakeServer(const FakeServer&) = delete;
  FakeServer& operator=(const FakeServer&) = delete;

  std::string target() const { return "127.0.0.1:" + std::to_string(port); }

  FakeInference service;
  int port = 0;
  std::unique_ptr<grpc::Server> server;
};

}  // namespace kvcrush::client::test
