#include "server/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server_builder.h>
#include <spdlog/fmt/fmt.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "server/bytes.h"
#include "server/grpc_log.h"
#include "server/logging.h"
#include "server/malformed_request.h"

namespace kvcrush {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int kPumpThreads = 2;
constexpr seconds kAfterDrain{5};  // for aborted requests to say so, and for written text to leave
constexpr const char* kServiceName = "kvcrush.v1.Inference";

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Server::Server(ServerConfig config)
    : config_(std::move(config)),
      metrics_(KVCRUSH_VERSION),
      pump_(kPumpThreads),
      shedding_(metrics_, observer_.outflow(), config_.engine.max_waiting_sequences),
      service_(config_, host_, metrics_, security_.callers()),
      stall_watch_(live_, unsent_, config_.stalled_client_timeout),
      step_watch_(
          observer_.progress(), config_.limits.step_stall_timeout,
          [this](bool stalled, StepWatch::Clock::duration duration) { engine_stalled(stalled, duration); }) {
  host_.pump = &pump_;
  host_.live = &live_;
  host_.metrics = &metrics_;
  host_.shedding = &shedding_;
  host_.unsent = &unsent_;
  host_.max_unread_bytes = config_.limits.max_unread_bytes;
}

Server::~Server() {
  drain();
}

Status Server::listen() {
  take_grpc_log();
  log_security(config_.security, config_.listen);
  KVCRUSH_RETURN_IF_ERROR(security_.load());
  if (!config_.http_listen.empty()) {
    Result<std::unique_ptr<HttpEndpoints>> http = HttpEndpoints::listen(
        config_.http_listen, {[this] { return render_metrics(); }, [this] { return not_ready_reason(); }});
    KVCRUSH_RETURN_IF_ERROR(http.status());
    http_ = std::move(http).value();
  }
  KVCRUSH_RETURN_IF_ERROR(listen_grpc());
  LogLine(spdlog::level::info, "listening").with("grpc_port", grpc_port()).with("http_port", http_port());
  return {};
}

Status Server::listen_grpc() {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  security_.guard(builder, config_.listen, &grpc_port_);
  builder.RegisterService(&service_);
  bound_messages(config_.max_message_bytes, builder);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a second server on the port must fail
  apply_limits(config_.limits, builder);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(malformed_request_interceptor());
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  grpc_ = builder.BuildAndStart();
  if (grpc_ == nullptr || grpc_port_ == 0) {
    return {StatusCode::kUnavailable,
            fmt::format("cannot listen on {} for gRPC: address in use or not ours", config_.listen)};
  }
  set_health(false);
  return {};
}

Status Server::load(const ModelLoader& loader) {
  const auto start = std::chrono::steady_clock::now();
  const LoadProgress progress = [this, start](std::string_view stage) {
    set_not_ready("loading: " + std::string(stage));
    LogLine(spdlog::level::info, "loading").with("stage", stage).with("elapsed_s", seconds_since(start));
  };
  Result<LoadedModel> loaded = loader(config_, observer_, progress);
  KVCRUSH_RETURN_IF_ERROR(loaded.status());
  start_serving(std::move(loaded).value());
  KVCRUSH_RETURN_IF_ERROR(write_port_file());
  log_ready(seconds_since(start));
  return {};
}

void Server::start_serving(LoadedModel loaded) {
  model_ = std::make_unique<ServingModel>();
  model_->loaded = std::move(loaded);
  const LoadedModel& kept = model_->loaded;
  host_.backend = kept.backend.get();
  MapperContext& mapper = model_->mapper;
  mapper.tokenizer = kept.tokenizer;
  mapper.chat_template = kept.chat_template;
  mapper.chat_abilities = kept.chat_abilities;
  mapper.no_chat_reason = kept.no_chat_reason;
  mapper.limits = kept.backend->limits();
  mapper.max_new_tokens = [this](int num_prompt_tokens, const CachePolicy& policy) {
    return host_.backend->max_new_tokens(num_prompt_tokens, policy);
  };
  mapper.defaults = {config_.default_max_tokens, config_.compression};
  metrics_.set_model(kept.name, kept.config.architecture, kept.weight_dtype);
  metrics_.state().set_cache_config(mapper.limits, kept.config.num_layers, config_.engine.kv_dtype);
  published_model_ = model_.get();
  service_.set_model(model_.get());
  set_health(true);
  set_not_ready("");
  step_watch_.start();
}

void Server::log_ready(double load_seconds) const {
  if (!config_.engine.faults.empty())
    LogLine(spdlog::level::warn, "faults_on_purpose").with("faults", config_.engine.faults);
  const LoadedModel& loaded = model_->loaded;
  const EngineLimits& limits = model_->mapper.limits;
  if (loaded.chat_template == nullptr) {
    LogLine(spdlog::level::warn, "no_chat").with("reason", loaded.no_chat_reason);
  }
  LogLine(spdlog::level::info, "ready")
      .with("model", loaded.name)
      .with("architecture", loaded.config.architecture)
      .with("parameters", loaded.num_parameters)
      .with("weights", fmt::format("{} {}", loaded.weight_dtype, format_bytes(loaded.weight_bytes)))
      .with("load_s", load_seconds)
      .with("kv_blocks", limits.num_blocks)
      .with("kv_bytes", limits.num_blocks * limits.block_bytes)
      .with("kv_dtype", config_.engine.kv_dtype)
      .with("kv_tokens", limits.max_cached_tokens)
      .with("max_context_tokens", limits.max_context_tokens)
      .with("device", config_.engine.device)
      .with("grpc_port", grpc_port())
      .with("http_port", http_port());
}

Status Server::write_port_file() const {
  if (config_.port_file.empty()) return {};
  // Renamed into place, so that a reader never sees half of it.
  const std::string unfinished = config_.port_file + ".tmp";
  {
    std::ofstream file(unfinished);
    file << nlohmann::json{{"grpc_port", grpc_port()}, {"http_port", http_port()}}.dump() << '\n';
    if (!file.flush())
      return invalid_argument(
          fmt::format("--port-file is \"{}\", allowed: a writable path", config_.port_file));
  }
  if (std::rename(unfinished.c_str(), config_.port_file.c_str()) != 0) {
    return invalid_argument(
        fmt::format("--port-file is \"{}\", allowed: a writable path", config_.port_file));
  }
  return {};
}

bool Server::drain() {
  Backend* backend = host_.backend;
  const auto engine_rests = [backend] { return backend == nullptr || backend->wait_idle(milliseconds(0)); };
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(drained_, true)) return engine_rests();
    not_ready_reason_ = "draining";
  }
  if (grpc_ == nullptr) return true;
  set_health(false);
  if (backend != nullptr) {
    backend->begin_drain();
    LogLine(spdlog::level::info, "draining")
        .with("running", backend->stats().num_running)
        .with("timeout_ms", config_.drain_timeout.count());
    if (!backend->wait_idle(config_.drain_timeout)) abort_running();
  }
  // Calls that are done with the engine still send their last text; a client that does not take it is cut
  // off.
  grpc_->Shutdown(std::chrono::system_clock::now() + kAfterDrain);
  grpc_->Wait();
  if (!engine_rests()) {
    LogLine(spdlog::level::err, "engine_hangs").with("running", backend->stats().num_running);
    return false;
  }
  const LogLine line(spdlog::level::info, "stopped");
  return true;
}

void Server::abort_running() {
  host_.aborting = true;
  const auto sessions = live_.snapshot();
  LogLine(spdlog::level::warn, "drain_timeout").with("aborted_requests", sessions.size());
  for (const auto& session : sessions) {
    // NOT_FOUND: it has just ended by itself.
    static_cast<void>(host_.backend->finish(session->request_id(), FinishReason::kAbort, std::nullopt));
  }
  if (host_.backend->wait_idle(kAfterDrain)) return;
  // A step hangs, and with it the events that would end them.
  for (const auto& session : sessions) session->end_without_engine();
}

void Server::engine_stalled(bool stalled, StepWatch::Clock::duration duration) {
  metrics_.set_engine_stalled(stalled);
  LogLine(stalled ? spdlog::level::err : spdlog::level::info, stalled ? "engine_stalled" : "engine_recovered")
      .with("step_s", std::chrono::duration<double>(duration).count());
  std::lock_guard lock(mutex_);
  if (!drained_) set_health(!stalled);
}

void Server::set_health(bool serving) {
  grpc::HealthCheckServiceInterface* health = grpc_->GetHealthCheckService();
  health->SetServingStatus("", serving);
  health->SetServingStatus(kServiceName, serving);
}

void Server::set_not_ready(std::string reason) {
  std::lock_guard lock(mutex_);
  if (!drained_) not_ready_reason_ = std::move(reason);
}

std::string Server::not_ready_reason() const {
  const std::optional<StepWatch::Clock::duration> stalled_for =
      step_watch_.stalled_for(StepWatch::Clock::now());
  std::lock_guard lock(mutex_);
  if (!not_ready_reason_.empty() || !stalled_for) return not_ready_reason_;
  return fmt::format("engine step has not finished for {} s",
                     std::chrono::duration_cast<seconds>(*stalled_for).count());
}

std::string Server::render_metrics() {
  if (const ServingModel* model = published_model_; model != nullptr)
    metrics_.refresh(model->loaded.backend->stats());
  metrics_.state().set_ready(not_ready_reason().empty());
  return metrics_.render();
}

}  // namespace kvcrush
