#include "server/once_reactor.h"

#include <utility>

namespace kvcrush {

OnceReactor::OnceReactor(SessionHost& host, grpc::CallbackServerContext* context, std::string request_id,
                         v1::GenerateOnceResponse* response)
    : UnaryReactor(host, context, std::move(request_id)), response_(response) {}

std::shared_ptr<OnceReactor> OnceReactor::create(SessionHost& host, grpc::CallbackServerContext* context,
                                                 std::string request_id, v1::GenerateOnceResponse* response) {
  return std::shared_ptr<OnceReactor>(new OnceReactor(host, context, std::move(request_id), response));
}

grpc::Status OnceReactor::answer() {
  response_->set_request_id(request_id());
  for (SampleStream& sample : samples_) {
    v1::Completion& completion = *response_->add_completions();
    while (sample.has_chunk()) {
      v1::GenerateResponse chunk = sample.take_chunk();
      completion.set_index(chunk.index());
      completion.mutable_text()->append(chunk.text());
      completion.mutable_token_ids()->MergeFrom(chunk.token_ids());
      completion.mutable_logprobs()->MergeFrom(chunk.logprobs());
      if (chunk.has_finish()) completion.mutable_finish()->Swap(chunk.mutable_finish());
    }
  }
  return grpc::Status::OK;
}

}  // namespace kvcrush
