// The gRPC service: every call of proto/kvcrush/v1/inference.proto. Answers UNAVAILABLE until a model is set.
#pragma once

#include <atomic>
#include <chrono>
#include <string>

#include "kvcrush/v1/inference.grpc.pb.h"
#include "server/backend.h"
#include "server/callers.h"
#include "server/config.h"
#include "server/generate_session.h"
#include "server/metrics.h"
#include "server/request_mapper.h"

namespace kvcrush {

// A loaded model with what the service derives from it. Immutable while calls run.
struct ServingModel {
  LoadedModel loaded;
  MapperContext mapper;
};

class InferenceService final : public v1::Inference::CallbackService {
 public:
  // All of them outlive the service.
  InferenceService(const ServerConfig& config, SessionHost& host, ServerMetrics& metrics, Callers& callers);

  void set_model(const ServingModel* model) { model_ = model; }

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(grpc::CallbackServerContext* context,
                                                           const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* GenerateOnce(grpc::CallbackServerContext* context,
                                         const v1::GenerateRequest* request,
                                         v1::GenerateOnceResponse* response) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context, const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::GetModelInfoRequest* request,
                                         v1::GetModelInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context, const v1::GetStatsRequest* request,
                                     v1::GetStatsResponse* response) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context, const v1::AbortRequest* request,
                                  v1::AbortResponse* response) override;

 private:
  // Ends a unary call; its response is filled.
  grpc::ServerUnaryReactor* answer(grpc::CallbackServerContext* context, const Status& status) const;
  // UNAVAILABLE while it loads; the call's answer then says when to come back.
  Result<const ServingModel*> model(grpc::CallbackServerContext& context) const;
  // Lets in, maps and logs an arriving GenerateRequest or ScoreRequest; counts and logs a refused one.
  template <typename Request>
  Result<MappedRequest> admit(const Request& request, grpc::CallbackServerContext& context);
  // From the message and the call's deadline; refuses what comes too early or too late.
  template <typename Request>
  Result<MappedRequest> map_call(const Request& request, grpc::CallbackServerContext& context);
  // Starts a session and counts its samples; counts and logs a refused one.
  Status start(GenerateSession& session, MappedRequest mapped, grpc::CallbackServerContext& context);
  // Whether the caller may make this call; counts calls over a token's limits.
  Result<Admission> let_in(grpc::CallbackServerContext& context, CallKind kind);
  // OK: the caller may, and a model is there to answer it.
  Result<const ServingModel*> enter(grpc::CallbackServerContext* context, CallKind kind,
                                    Caller* caller = nullptr);
  // The whole of a call that is answered once; `create` makes its reactor.
  template <typename Request, typename Create>
  grpc::ServerUnaryReactor* answer_once(grpc::CallbackServerContext* context, const Request& request,
                                        Create create);
  void reject(const std::string& request_id, const std::string& traceparent, const Status& status);

  const ServerConfig& config_;
  SessionHost& host_;
  ServerMetrics& metrics_;
  Callers& callers_;
  std::atomic<const ServingModel*> model_{nullptr};
  const std::chrono::steady_clock::time_point started_at_ = std::chrono::steady_clock::now();
};

// The parts that only turn one message into another.
Status tokenize(const v1::TokenizeRequest& request, const MapperContext& context,
                v1::TokenizeResponse& response);
Status detokenize(const v1::DetokenizeRequest& request, const Tokenizer& tokenizer,
                  v1::DetokenizeResponse& response);
void describe_model(const ServingModel& model, const ServerConfig& config,
                    v1::GetModelInfoResponse& response);
void describe_stats(const EngineStats& stats, const MetricTotals& totals, v1::GetStatsResponse& response);

}  // namespace kvcrush
