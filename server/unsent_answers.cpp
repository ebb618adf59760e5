#include "server/unsent_answers.h"

#include "server/logging.h"

namespace kvcrush {

void UnsentAnswers::add(grpc::CallbackServerContext* context, const std::string& request_id,
                        const std::string& traceparent) {
  std::lock_guard lock(mutex_);
  entries_[context] = Entry{Clock::now(), request_id, traceparent};
}

void UnsentAnswers::remove(grpc::CallbackServerContext* context) {
  std::lock_guard lock(mutex_);
  entries_.erase(context);
}

void UnsentAnswers::cut_off(Clock::time_point now, Clock::duration timeout) {
  std::lock_guard lock(mutex_);  // held over TryCancel: remove() must not let a context go meanwhile
  for (auto& [context, entry] : entries_) {
    if (entry.cancelled || now - entry.added_at < timeout) continue;
    entry.cancelled = true;
    metrics_.ended_slow_stream();
    const std::chrono::duration<double> waited = now - entry.added_at;
    LogLine line(spdlog::level::warn, "client_stalled");
    if (!entry.request_id.empty()) line.with_request(entry.request_id, entry.traceparent);
    line.with("peer", context->peer()).with("unread_for_s", waited.count());
    context->TryCancel();
  }
}

}  // namespace kvcrush
