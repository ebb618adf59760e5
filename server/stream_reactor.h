// Answers Generate: streams chunks, one write in flight; what gathers meanwhile leaves in one chunk per
// sample.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <memory>
#include <string>

#include "server/generate_session.h"

namespace kvcrush {

class StreamReactor final : public GenerateSession, public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  static std::shared_ptr<StreamReactor> create(SessionHost& host, grpc::CallbackServerContext* context,
                                               std::string request_id);

  // Takes effect after a successful start(): gRPC now holds the reactor until OnDone.
  void hold_until_done() { self_ = std::static_pointer_cast<StreamReactor>(shared_from_this()); }

 private:
  using GenerateSession::GenerateSession;
  enum class Step { kNothing, kWrite, kFinish };

  void deliver() override;
  void check_unread();                     // mutex_ held
  Step next_step();                        // mutex_ held
  SampleStream* next_sample_with_chunk();  // mutex_ held

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  std::size_t next_sample_ = 0;     // guarded by mutex_; samples take turns
  v1::GenerateResponse outgoing_;   // gRPC's while a write is in flight
  std::size_t outgoing_bytes_ = 0;  // guarded by mutex_
  std::shared_ptr<StreamReactor> self_;
};

}  // namespace kvcrush
