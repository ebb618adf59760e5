#include "server/score_reactor.h"

#include <algorithm>

namespace kvcrush {
namespace {

void fill_variant(SampleStream& sample, v1::VariantScore& out) {
  const ScoreEvent& score = *sample.score();
  out.set_index(score.index);
  out.mutable_logprobs()->Assign(score.logprobs.begin(), score.logprobs.end());
  out.mutable_kl_divergences()->Assign(score.kl_divergences.begin(), score.kl_divergences.end());
  out.mutable_top1_agrees()->Assign(score.top1_agrees.begin(), score.top1_agrees.end());
  while (sample.has_chunk()) {
    v1::GenerateResponse chunk = sample.take_chunk();
    if (!chunk.has_finish()) continue;
    out.mutable_compression()->Swap(chunk.mutable_finish()->mutable_compression());
    out.mutable_usage()->Swap(chunk.mutable_finish()->mutable_usage());
  }
}

}  // namespace

ScoreReactor::ScoreReactor(SessionHost& host, grpc::CallbackServerContext* context,
                           const EngineRequest& request, v1::ScoreResponse* response)
    : UnaryReactor(host, context, request.request_id),
      continuation_token_ids_(request.continuation_token_ids),
      response_(response) {}

std::shared_ptr<ScoreReactor> ScoreReactor::create(SessionHost& host, grpc::CallbackServerContext* context,
                                                   const EngineRequest& request,
                                                   v1::ScoreResponse* response) {
  return std::shared_ptr<ScoreReactor>(new ScoreReactor(host, context, request, response));
}

grpc::Status ScoreReactor::answer() {
  const bool complete = std::all_of(samples_.begin(), samples_.end(),
                                    [](const SampleStream& sample) { return sample.score() != nullptr; });
  if (!complete) return {grpc::StatusCode::ABORTED, "the request was aborted before its scores were there"};
  response_->set_request_id(request_id());
  response_->mutable_continuation_token_ids()->Assign(continuation_token_ids_.begin(),
                                                      continuation_token_ids_.end());
  const std::vector<float>& full = samples_.front().score()->full_logprobs;  // the same in all of them
  response_->mutable_full_logprobs()->Assign(full.begin(), full.end());
  for (SampleStream& sample : samples_) fill_variant(sample, *response_->add_variants());
  return grpc::Status::OK;
}

}  // namespace kvcrush
