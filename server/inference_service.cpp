#include "server/inference_service.h"

#include <spdlog/fmt/fmt.h>

#include <utility>

#include "server/call_deadline.h"
#include "server/compression_fields.h"
#include "server/load_shedding.h"
#include "server/logging.h"
#include "server/once_reactor.h"
#include "server/prompt_log.h"
#include "server/proto_convert.h"
#include "server/score_reactor.h"
#include "server/stream_reactor.h"
#include "server/trace_context.h"

namespace kvcrush {
namespace {

// Ends a streaming call before it has begun.
class RefusedStream final : public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  explicit RefusedStream(const Status& status) { Finish(to_grpc_status(status)); }
  void OnDone() override { delete this; }
};

// A call that is answered at once. Not gRPC's default reactor: that does not say when the answer has left.
class AnsweredCall final : public grpc::ServerUnaryReactor {
 public:
  AnsweredCall(UnsentAnswers& unsent, grpc::CallbackServerContext* context, const Status& status)
      : unsent_(unsent), context_(context) {
    unsent_.add(context, "", "");
    Finish(to_grpc_status(status));
  }
  void OnDone() override {
    unsent_.remove(context_);
    delete this;
  }

 private:
  UnsentAnswers& unsent_;
  grpc::CallbackServerContext* context_;
};

Result<MappedRequest> map(const v1::GenerateRequest& request, const MapperContext& context) {
  return map_generate_request(request, context);
}
Result<MappedRequest> map(const v1::ScoreRequest& request, const MapperContext& context) {
  return map_score_request(request, context);
}

}  // namespace

InferenceService::InferenceService(const ServerConfig& config, SessionHost& host, ServerMetrics& metrics,
                                   Callers& callers)
    : config_(config), host_(host), metrics_(metrics), callers_(callers) {}

grpc::ServerUnaryReactor* InferenceService::answer(grpc::CallbackServerContext* context,
                                                   const Status& status) const {
  return new AnsweredCall(*host_.unsent, context, status);
}

Result<const ServingModel*> InferenceService::model(grpc::CallbackServerContext& context) const {
  const ServingModel* model = model_;
  if (model != nullptr) return model;
  host_.shedding->shed(context, ShedReason::kLoading);
  return Status(StatusCode::kUnavailable, "the model is still loading");
}

Result<Admission> InferenceService::let_in(grpc::CallbackServerContext& context, CallKind kind) {
  Result<Admission> admission = callers_.enter(context, kind);
  if (admission.status().code() == StatusCode::kResourceExhausted) metrics_.shed(ShedReason::kTenantLimit);
  return admission;
}

Result<const ServingModel*> InferenceService::enter(grpc::CallbackServerContext* context, CallKind kind,
                                                    Caller* caller) {
  Result<Admission> admission = let_in(*context, kind);
  KVCRUSH_RETURN_IF_ERROR(admission.status());
  if (caller != nullptr) *caller = std::move(admission->caller);
  return model(*context);
}

void InferenceService::reject(const std::string& request_id, const std::string& traceparent,
                              const Status& status) {
  metrics_.rejected(status.code());
  LogLine(spdlog::level::info, "rejected")
      .with_request(loggable_id(request_id), traceparent)
      .with("code", to_string(status.code()))
      .with("reason", loggable_reason(status));
}

template <typename Request>
Result<MappedRequest> InferenceService::map_call(const Request& request,
                                                 grpc::CallbackServerContext& context) {
  Result<Admission> admission = let_in(context, CallKind::kGenerate);
  KVCRUSH_RETURN_IF_ERROR(admission.status());
  const Result<const ServingModel*> serving = model(context);
  KVCRUSH_RETURN_IF_ERROR(serving.status());
  const std::optional<SteadyTime> deadline = deadline_of(context);
  Result<MappedRequest> mapped = map(request, (*serving)->mapper);
  KVCRUSH_RETURN_IF_ERROR(mapped.status());
  KVCRUSH_RETURN_IF_ERROR(check_deadline(deadline, std::chrono::steady_clock::now()));
  mapped->admission = std::move(admission).value();
  mapped->engine.tenant = mapped->admission.caller.tenant;
  mapped->engine.tenant_weight = mapped->admission.caller.share;
  mapped->engine.deadline = deadline;
  KVCRUSH_RETURN_IF_ERROR(limit_tokens(request, *mapped));
  if (config_.security.log_prompts) log_prompt(*mapped, *(*serving)->loaded.tokenizer);
  return mapped;
}

template <typename Request>
Result<MappedRequest> InferenceService::admit(const Request& request, grpc::CallbackServerContext& context) {
  const std::string traceparent = accept_trace(context);
  Result<MappedRequest> mapped = map_call(request, context);
  if (!mapped.ok()) {
    reject(request.request_id(), traceparent, mapped.status());
    return mapped;
  }
  mapped->traceparent = traceparent;
  const EngineRequest& engine = mapped->engine;
  const v1::KvCompression& first = mapped->applied.front();
  LogLine(spdlog::level::info, "arrived")
      .with_request(engine.request_id, traceparent)
      .with("tenant", mapped->admission.caller.tenant)
      .with("peer", context.peer())
      .with("prompt_tokens", engine.prompt_token_ids.size())
      .with("max_tokens", engine.sampling.max_tokens)
      .with("scored_tokens", engine.continuation_token_ids.size())
      .with("n", engine.num_samples)
      .with("policy", short_name(first.policy()))
      .with("kv_dtype", short_name(first.kv_dtype()));
  return mapped;
}

Status InferenceService::start(GenerateSession& session, MappedRequest mapped,
                               grpc::CallbackServerContext& context) {
  const std::vector<v1::KvCompression> applied = mapped.applied;
  const std::string traceparent = mapped.traceparent;
  Status status = session.start(std::move(mapped), model_.load()->loaded.tokenizer);
  if (!status.ok()) {
    if (const std::optional<ShedReason> reason = shed_reason(status)) host_.shedding->shed(context, *reason);
    reject(session.request_id(), traceparent, status);
    return status;
  }
  for (const v1::KvCompression& sample : applied) {
    metrics_.accepted(short_name(sample.policy()), short_name(sample.kv_dtype()));
  }
  return {};
}

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  Result<MappedRequest> mapped = admit(*request, *context);
  if (!mapped.ok()) return new RefusedStream(mapped.status());
  const auto reactor = StreamReactor::create(host_, context, mapped->engine.request_id);
  const Status status = start(*reactor, std::move(mapped).value(), *context);
  if (!status.ok()) return new RefusedStream(status);
  reactor->hold_until_done();
  return reactor.get();
}

template <typename Request, typename Create>
grpc::ServerUnaryReactor* InferenceService::answer_once(grpc::CallbackServerContext* context,
                                                        const Request& request, Create create) {
  Result<MappedRequest> mapped = admit(request, *context);
  if (!mapped.ok()) return answer(context, mapped.status());
  const std::shared_ptr<UnaryReactor> reactor = create(mapped->engine);
  const Status status = start(*reactor, std::move(mapped).value(), *context);
  if (!status.ok()) return answer(context, status);
  reactor->hold_until_done();
  return reactor.get();
}

grpc::ServerUnaryReactor* InferenceService::GenerateOnce(grpc::CallbackServerContext* context,
                                                         const v1::GenerateRequest* request,
                                                         v1::GenerateOnceResponse* response) {
  return answer_once(context, *request, [&](const EngineRequest& engine) {
    return OnceReactor::create(host_, context, engine.request_id, response);
  });
}

grpc::ServerUnaryReactor* InferenceService::Score(grpc::CallbackServerContext* context,
                                                  const v1::ScoreRequest* request,
                                                  v1::ScoreResponse* response) {
  return answer_once(context, *request, [&](const EngineRequest& engine) {
    return ScoreReactor::create(host_, context, engine, response);
  });
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  const Result<const ServingModel*> serving = enter(context, CallKind::kTokenize);
  return answer(context, serving.ok() ? tokenize(*request, (*serving)->mapper, *response) : serving.status());
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  const Result<const ServingModel*> serving = enter(context, CallKind::kTokenize);
  return answer(context, serving.ok() ? detokenize(*request, *(*serving)->loaded.tokenizer, *response)
                                      : serving.status());
}

grpc::ServerUnaryReactor* InferenceService::GetModelInfo(grpc::CallbackServerContext* context,
                                                         const v1::GetModelInfoRequest*,
                                                         v1::GetModelInfoResponse* response) {
  const Result<const ServingModel*> serving = enter(context, CallKind::kRead);
  if (serving.ok()) describe_model(**serving, config_, *response);
  return answer(context, serving.status());
}

grpc::ServerUnaryReactor* InferenceService::GetStats(grpc::CallbackServerContext* context,
                                                     const v1::GetStatsRequest*,
                                                     v1::GetStatsResponse* response) {
  Caller caller;
  const Result<const ServingModel*> serving = enter(context, CallKind::kRead, &caller);
  if (serving.ok()) {
    EngineStats stats = host_.backend->stats();
    std::erase_if(stats.sequences, [&caller](const SequenceStats& sequence) {
      // Not by its id: the snapshot is some 50 ms old, and the id may be another tenant's by now.
      return !may_see(caller, sequence.tenant);
    });
    describe_stats(stats, metrics_.totals(), *response);
  }
  const std::chrono::duration<double> uptime = std::chrono::steady_clock::now() - started_at_;
  response->set_uptime_s(uptime.count());
  return answer(context, serving.status());
}

grpc::ServerUnaryReactor* InferenceService::Abort(grpc::CallbackServerContext* context,
                                                  const v1::AbortRequest* request, v1::AbortResponse*) {
  Caller caller;
  const Result<const ServingModel*> serving = enter(context, CallKind::kRead, &caller);
  if (!serving.ok()) return answer(context, serving.status());
  if (request->request_id().empty()) {
    return answer(context, invalid_argument("request_id is empty, allowed: the id of a running request"));
  }
  const std::shared_ptr<GenerateSession> session = host_.live->find(request->request_id(), caller);
  if (session == nullptr || !session->abort().ok()) {
    return answer(context, not_found(fmt::format("request_id is \"{}\"; no such request is running",
                                                 request->request_id())));
  }
  LogLine(spdlog::level::info, "abort_asked").with_request(request->request_id(), accept_trace(*context));
  return answer(context, {});
}

}  // namespace kvcrush
