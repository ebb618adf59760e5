// One generation call between its engine events and its gRPC reactor.
//
//   engine thread ─ on_ready ─▶ StreamPump ─ pump() ─▶ SampleStreams ─ deliver() ─▶ gRPC
//   gRPC threads ─ OnCancel ─▶ client_gone() ─▶ engine.finish(kAbort, or kDeadline)
//
// Lifetime: the reactor (a subclass) keeps itself alive until gRPC's OnDone. The pump's queue holds shared
// pointers, the TokenStream's callback a weak one, so events that come later find either a closed session or
// none. Locks: mutex_ is taken before those of Backend, LiveRequests and TokenStream, never after.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/backend.h"
#include "server/live_requests.h"
#include "server/load_shedding.h"
#include "server/metrics.h"
#include "server/request_mapper.h"
#include "server/sample_stream.h"
#include "server/stream_pump.h"
#include "server/unsent_answers.h"

namespace kvcrush {

// What all sessions of a server share. Outlives them.
struct SessionHost {
  Backend* backend = nullptr;  // set once the model is loaded
  StreamPump* pump = nullptr;
  LiveRequests* live = nullptr;
  ServerMetrics* metrics = nullptr;
  LoadShedding* shedding = nullptr;
  UnsentAnswers* unsent = nullptr;
  std::size_t max_unread_bytes = 0;   // of one stream; 0: without bound
  std::atomic<bool> aborting{false};  // the drain timeout has passed: aborted requests end with UNAVAILABLE
};

class GenerateSession : public std::enable_shared_from_this<GenerateSession> {
 public:
  using Clock = std::chrono::steady_clock;

  GenerateSession(SessionHost& host, grpc::CallbackServerContext* context, std::string request_id);
  virtual ~GenerateSession() = default;
  GenerateSession(const GenerateSession&) = delete;
  GenerateSession& operator=(const GenerateSession&) = delete;

  // Submits to the engine. On failure nothing is running and the caller ends the call with the status.
  Status start(MappedRequest request, const std::shared_ptr<const Tokenizer>& tokenizer);

  // Ends the request as Abort does. NOT_FOUND: it has just ended by itself.
  Status abort();

  // Ends the call though the engine has not: it hangs, and the server shuts down.
  void end_without_engine();

  // Takes what the engine has queued and passes on what the client may have. Any thread.
  void pump();

  // Ends the call when a write has been waiting for the client for longer than `timeout`.
  void check_stalled(Clock::time_point now, Clock::duration timeout);

  const std::string& request_id() const { return request_id_; }

 protected:
  // Starts whatever gRPC operation is due. Called without mutex_ held.
  virtual void deliver() = 0;

  // The call was cancelled, its deadline passed or a write failed.
  void client_gone(std::string_view event);
  // The client has left too much unread: frees what the request holds, here and in the engine. The call ends
  // with RESOURCE_EXHAUSTED as soon as gRPC can send so. mutex_ held.
  void end_slow(std::size_t unread_bytes);

  // With mutex_ held, below.
  bool all_finished() const;
  grpc::Status final_status() const;
  // No gRPC operation and no engine call may follow but the one that carries the status. Frees the request
  // id.
  void close();
  // The answer goes to gRPC as a whole, after close(): from now on it has to leave within the client's time.
  void answer_leaves();
  // gRPC is done with the call; its context is about to go.
  void forget_context();

  std::size_t max_unread_bytes() const { return host_.max_unread_bytes; }

  std::mutex mutex_;
  std::vector<SampleStream> samples_;                  // guarded by mutex_
  std::optional<Clock::time_point> write_started_at_;  // guarded by mutex_; set while a write is in flight
  bool client_gone_ = false;                           // guarded by mutex_
  std::size_t unread_at_end_bytes_ = 0;                // guarded by mutex_; not 0: end_slow() was called
  bool closed_ = false;                                // guarded by mutex_

 private:
  void absorb_events();
  void count_slow();  // mutex_ held; one stream once, though both bounds may be passed

  SessionHost& host_;
  const std::string request_id_;
  grpc::CallbackServerContext* context_;  // guarded by mutex_; null after OnDone
  bool stalled_ = false;                  // guarded by mutex_
  bool counted_slow_ = false;             // guarded by mutex_
  bool engine_hangs_ = false;             // guarded by mutex_; nothing more will come
  bool over_deadline_ = false;            // guarded by mutex_; the client is gone because its deadline passed
  RunningSlot slot_;                      // guarded by mutex_ once started
  // Set by start(), before any event:
  std::string traceparent_;
  std::optional<Clock::time_point> deadline_;
  Clock::time_point arrived_at_;
  std::shared_ptr<TokenStream> stream_;
  std::atomic<bool> queued_{false};  // in the pump's queue
};

}  // namespace kvcrush
