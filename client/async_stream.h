// One stream of Client::start_generate: keeps itself alive until it has told its handler the end.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <stop_token>

#include "client/kvcrush_client.h"
#include "kvcrush/v1/inference.grpc.pb.h"

namespace kvcrush::client {

// Code, message and the wait that the trailing metadata asks for.
Status status_of(const grpc::Status& status, const grpc::ClientContext& context);

class AsyncStream final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  // `prepare` sets what the call carries beside the request.
  template <typename Prepare>
  static void start(v1::Inference::Stub& stub, const v1::GenerateRequest& request,
                    std::shared_ptr<StreamHandler> handler, const std::stop_token& stop, Prepare&& prepare) {
    auto* stream = new AsyncStream(request, std::move(handler));  // deletes itself in OnDone
    prepare(stream->context_);
    stream->run(stub, stop);
  }

 private:
  AsyncStream(const v1::GenerateRequest& request, std::shared_ptr<StreamHandler> handler)
      : request_(request), handler_(std::move(handler)) {}

  void run(v1::Inference::Stub& stub, const std::stop_token& stop);
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  struct Cancel {
    grpc::ClientContext* context;
    void operator()() const { context->TryCancel(); }
  };

  grpc::ClientContext context_;
  const v1::GenerateRequest request_;  // gRPC reads it after start() has returned
  v1::GenerateResponse chunk_;
  std::shared_ptr<StreamHandler> handler_;
  std::optional<std::stop_callback<Cancel>> cancel_;
};

}  // namespace kvcrush::client
