// Everything that serves, in one object: HTTP and gRPC listeners, engine, pump. Order of members is order of
// destruction.
#pragma once

#include <grpcpp/server.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "server/backend.h"
#include "server/config.h"
#include "server/generate_session.h"
#include "server/http_endpoints.h"
#include "server/inference_service.h"
#include "server/live_requests.h"
#include "server/load_shedding.h"
#include "server/metrics.h"
#include "server/server_observer.h"
#include "server/server_security.h"
#include "server/stall_watch.h"
#include "server/step_watch.h"
#include "server/stream_pump.h"
#include "server/unsent_answers.h"

namespace kvcrush {

class Server {
 public:
  explicit Server(ServerConfig config);
  ~Server();  // drains
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Opens both listeners: from here on /healthz is 200, /readyz 503 and calls are UNAVAILABLE. UNAVAILABLE:
  // address taken; INVALID_ARGUMENT: a certificate or a token file that cannot be used.
  Status listen();
  // Loads the model (seconds to minutes, in the caller's thread) and begins to serve. Call once, after
  // listen().
  Status load(const ModelLoader& loader);
  // Refuses new requests, lets running ones end within the drain timeout, aborts the rest, closes the
  // listeners. Blocks; later calls do nothing. False: an engine step hangs, and the destructor would wait for
  // it.
  bool drain();

  std::string render_metrics();  // what /metrics answers

  int grpc_port() const { return grpc_port_; }
  int http_port() const { return http_ ? http_->port() : 0; }  // 0: off

 private:
  Status listen_grpc();
  void start_serving(LoadedModel loaded);
  void log_ready(double load_seconds) const;
  Status write_port_file() const;
  void set_health(bool serving);
  void engine_stalled(bool stalled, StepWatch::Clock::duration duration);
  void set_not_ready(std::string reason);  // empty: ready
  std::string not_ready_reason() const;
  void abort_running();

  const ServerConfig config_;
  mutable std::mutex mutex_;
  std::string not_ready_reason_ = "starting";  // guarded by mutex_
  bool drained_ = false;                       // guarded by mutex_
  ServerMetrics metrics_;
  ServerSecurity security_{config_.security, metrics_.registry()};
  ServerObserver observer_{metrics_};
  LiveRequests live_;
  UnsentAnswers unsent_{metrics_};
  StreamPump pump_;
  SessionHost host_;
  std::unique_ptr<ServingModel> model_;
  std::atomic<const ServingModel*> published_model_{nullptr};
  LoadShedding shedding_;
  InferenceService service_;
  StallWatch stall_watch_;
  std::unique_ptr<grpc::Server> grpc_;
  StepWatch step_watch_;
  std::unique_ptr<HttpEndpoints> http_;
  int grpc_port_ = 0;
};

}  // namespace kvcrush
