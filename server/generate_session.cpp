#include "server/generate_session.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "server/call_deadline.h"
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
  traceparent_ = std::move(request.traceparent);
  deadline_ = request.engine.deadline;
  arrived_at_ = Clock::now();
  stream_ = std::make_shared<TokenStream>(
      [weak = weak_from_this()] {
        const std::shared_ptr<GenerateSession> session = weak.lock();
        if (session && !session->queued_.exchange(true)) session->host_.pump->enqueue(session);
      },
      traceparent_);
  if (!host_.live->try_add(request_id_, request.admission.caller.tenant, weak_from_this())) {
    return {StatusCode::kAlreadyExists,
            fmt::format("request_id is \"{}\", allowed: an id that no running request has", request_id_)};
  }
  Status status = host_.backend->submit(std::move(request.engine), stream_);
  if (!status.ok()) {
    std::lock_guard lock(mutex_);
    closed_ = true;  // an Abort that has found this one must not end the next of its id
    slot_ = {};
    host_.live->remove(request_id_);
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
  std::deque<StreamEvent> events = stream_->take();
  if (unread_at_end_bytes_ > 0) return;
  for (StreamEvent& event : events) {
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

void GenerateSession::end_without_engine() {
  {
    std::lock_guard lock(mutex_);
    if (closed_ || client_gone_) return;
    engine_hangs_ = true;
  }
  deliver();
}

void GenerateSession::check_stalled(Clock::time_point now, Clock::duration timeout) {
  std::lock_guard lock(mutex_);
  if (stalled_ || context_ == nullptr || !write_started_at_ || now - *write_started_at_ < timeout) return;
  stalled_ = true;
  count_slow();
  LogLine(spdlog::level::warn, "client_stalled")
      .with_request(request_id_, traceparent_)
      .with("unread_for_s", seconds(now - *write_started_at_));
  context_->TryCancel();  // fails the write, and OnCancel ends the request
}

void GenerateSession::client_gone(std::string_view event) {
  {
    std::lock_guard lock(mutex_);
    if (closed_ || client_gone_) return;
    client_gone_ = true;
    over_deadline_ = is_over_deadline(deadline_, arrived_at_, Clock::now());
    LogLine(spdlog::level::info, over_deadline_ ? "deadline" : event).with_request(request_id_, traceparent_);
    const FinishReason reason = over_deadline_ ? FinishReason::kDeadline : FinishReason::kAbort;
    // NOT_FOUND: it has just ended by itself.
    if (!all_finished()) static_cast<void>(host_.backend->finish(request_id_, reason, std::nullopt));
  }
  deliver();
}

void GenerateSession::end_slow(std::size_t unread_bytes) {
  unread_at_end_bytes_ = unread_bytes;
  for (SampleStream& sample : samples_) sample.drop_chunks();
  count_slow();
  LogLine(spdlog::level::warn, "client_slow")
      .with_request(request_id_, traceparent_)
      .with("unread_bytes", unread_bytes)
      .with("max_unread_bytes", host_.max_unread_bytes);
  // NOT_FOUND: it has just ended by itself.
  static_cast<void>(host_.backend->finish(request_id_, FinishReason::kAbort, std::nullopt));
}

void GenerateSession::count_slow() {
  if (!std::exchange(counted_slow_, true)) host_.metrics->ended_slow_stream();
}

bool GenerateSession::all_finished() const {
  return engine_hangs_ || std::all_of(samples_.begin(), samples_.end(),
                                      [](const SampleStream& sample) { return sample.finished(); });
}

grpc::Status GenerateSession::final_status() const {
  if (unread_at_end_bytes_ > 0) {
    return {grpc::StatusCode::RESOURCE_EXHAUSTED,
            fmt::format(
                "unread output is {} bytes, allowed: at most {} (--max-unread-bytes); the client reads too "
                "slowly",
                unread_at_end_bytes_, host_.max_unread_bytes)};
  }
  if (over_deadline_) return {grpc::StatusCode::DEADLINE_EXCEEDED, "the call's deadline passed"};
  if (client_gone_) return {grpc::StatusCode::CANCELLED, "the call was cancelled"};
  const auto find = [this](FinishReason reason) -> const SampleEnd* {
    for (const SampleStream& sample : samples_) {
      if (sample.end() && sample.end()->reason == reason) return &*sample.end();
    }
    return nullptr;
  };
  if (find(FinishReason::kError) != nullptr)
    return {grpc::StatusCode::INTERNAL, "the request could not be computed; see the server's log"};
  if (const SampleEnd* late = find(FinishReason::kDeadline); late != nullptr) {
    return {grpc::StatusCode::DEADLINE_EXCEEDED,
            fmt::format("deadline passed after {:.0f} ms {}", late->total_ms,
                        late->in_queue ? "in queue" : "while generating")};
  }
  if (engine_hangs_ || (host_.aborting && find(FinishReason::kAbort) != nullptr)) {
    return {grpc::StatusCode::UNAVAILABLE, "the server is shutting down"};
  }
  return grpc::Status::OK;
}

void GenerateSession::close() {
  const bool shutting_down = final_status().error_code() == grpc::StatusCode::UNAVAILABLE;
  if (shutting_down && context_ != nullptr) host_.shedding->hint_elsewhere(*context_);
  closed_ = true;
  // Before the client hears of the end: its next call finds the slot free. OnDone may come after that call.
  slot_ = {};
  host_.live->remove(request_id_);
}

void GenerateSession::answer_leaves() {
  host_.unsent->add(context_, request_id_, traceparent_);
}

void GenerateSession::forget_context() {
  std::lock_guard lock(mutex_);
  host_.unsent->remove(context_);
  context_ = nullptr;
}

}  // namespace kvcrush
