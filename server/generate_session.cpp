#include "server/generate_session.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "server/logging.h"

namespace kvcrush {
namespace {

double seconds(GenerateSession::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

GenerateSession::GenerateSession(SessionHost& host, grpc::CallbackServerContext* context,
                                 std::string request_id)
    : host_(host), request_id_(std::move(request_id)), context_(context) {}

Status GenerateSession::start(MappedRequest request, const std::shared_ptr<const Tokenizer>& tokenizer) {
  slot_ = std::move(request.admission.slot);
  for (std::size_t i = 0; i < request.applied.size(); ++i) {
    samples_.emplace_back(tokenizer, request.text, static_cast<int>(i), std::move(request.applied[i]));
  }
  stream_ = std::make_shared<TokenStream>([weak = weak_from_this()] {
    const std::shared_ptr<GenerateSession> session = weak.lock();
    if (session && !session->queued_.exchange(true)) session->host_.pump->enqueue(session);
  });
  if (!host_.live->try_add(request_id_, request.admission.caller.tenant, weak_from_this())) {
    return {StatusCode::kAlreadyExists,
            fmt::format("request_id is \"{}\", allowed: an id that no running request has", request_id_)};
  }
  Status status = host_.backend->submit(std::move(request.engine), stream_);
  if (!status.ok()) {
    host_.live->remove(request_id_);
    slot_ = {};
  }
  return status;
}

void GenerateSession::pump() {
  {
    std::lock_guard lock(mutex_);
    queued_ = false;  // before take(): an event that comes now queues the session again
    absorb_events();
  }
  deliver();
}

void GenerateSession::absorb_events() {
  if (closed_) return;
  for (StreamEvent& event : stream_->take()) {
    if (const auto* finish = std::get_if<FinishEvent>(&event)) {
      samples_.at(static_cast<std::size_t>(finish->index)).absorb(*finish);
      continue;
    }
    if (auto* score = std::get_if<ScoreEvent>(&event)) {
      SampleStream& sample = samples_.at(static_cast<std::size_t>(score->index));
      sample.absorb(std::move(*score));
      continue;
    }
    const auto& token = std::get<TokenEvent>(event);
    if (!samples_.at(static_cast<std::size_t>(token.index)).absorb(token)) continue;
    // NOT_FOUND: the engine has ended the sample by itself meanwhile, and its FinishEvent is on the way.
    static_cast<void>(host_.backend->finish(request_id_, FinishReason::kStop, token.index));
  }
}

Status GenerateSession::abort() {
  std::lock_guard lock(mutex_);  // while it is held the id cannot pass to another request
  if (closed_) return not_found("the request has ended");
  return host_.backend->finish(request_id_, FinishReason::kAbort, std::nullopt);
}

void GenerateSession::check_stalled(Clock::time_point now, Clock::duration timeout) {
  std::lock_guard lock(mutex_);
  if (stalled_ || context_ == nullptr || !write_started_at_ || now - *write_started_at_ < timeout) return;
  stalled_ = true;
  LogLine(spdlog::level::warn, "client_stalled")
      .with("request_id", request_id_)
      .with("unread_for_s", seconds(now - *write_started_at_));
  context_->TryCancel();  // fails the write, and OnCancel ends the request
}

void GenerateSession::client_gone(std::string_view event) {
  {
    std::lock_guard lock(mutex_);
    if (closed_ || client_gone_) return;
    client_gone_ = true;
    LogLine(spdlog::level::info, event).with("request_id", request_id_);
    // NOT_FOUND: it has just ended by itself.
    if (!all_finished())
      static_cast<void>(host_.backend->finish(request_id_, FinishReason::kAbort, std::nullopt));
  }
  deliver();
}

bool GenerateSession::all_finished() const {
  return std::all_of(samples_.begin(), samples_.end(),
                     [](const SampleStream& sample) { return sample.finished(); });
}

grpc::Status GenerateSession::final_status() const {
  if (client_gone_) return {grpc::StatusCode::CANCELLED, "the call was cancelled"};
  const auto any_ended = [this](FinishReason reason) {
    return std::any_of(samples_.begin(), samples_.end(),
                       [reason](const SampleStream& sample) { return sample.finish_reason() == reason; });
  };
  if (any_ended(FinishReason::kError))
    return {grpc::StatusCode::INTERNAL, "the request could not be computed; see the server's log"};
  if (any_ended(FinishReason::kDeadline))
    return {grpc::StatusCode::DEADLINE_EXCEEDED, "the deadline passed before the request was done"};
  if (host_.aborting && any_ended(FinishReason::kAbort)) {
    return {grpc::StatusCode::UNAVAILABLE, "the server is shutting down"};
  }
  return grpc::Status::OK;
}

void GenerateSession::close() {
  closed_ = true;
  slot_ = {};  // before the client hears of the end: its next call finds the slot free
  host_.live->remove(request_id_);
}

void GenerateSession::forget_context() {
  std::lock_guard lock(mutex_);
  context_ = nullptr;
}

}  // namespace kvcrush
