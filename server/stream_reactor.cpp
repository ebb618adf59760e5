#include "server/stream_reactor.h"

#include <utility>

namespace kvcrush {

std::shared_ptr<StreamReactor> StreamReactor::create(SessionHost& host, grpc::CallbackServerContext* context,
                                                     std::string request_id) {
  return std::shared_ptr<StreamReactor>(new StreamReactor(host, context, std::move(request_id)));
}

void StreamReactor::deliver() {
  Step step = Step::kNothing;
  grpc::Status status;
  {
    std::lock_guard lock(mutex_);
    check_unread();
    step = next_step();
    if (closed_) status = final_status();
  }
  // Only one operation can be due at a time, so these need no lock.
  switch (step) {
    case Step::kNothing:
      return;
    case Step::kWrite:
      return StartWrite(&outgoing_);
    case Step::kFinish:
      return Finish(status);
  }
}

// Only while a write waits for the client: what has just come and could leave at once is not its fault.
void StreamReactor::check_unread() {
  if (closed_ || client_gone_ || !write_started_at_ || max_unread_bytes() == 0 || unread_at_end_bytes_ > 0)
    return;
  std::size_t unread_bytes = outgoing_bytes_;
  for (const SampleStream& sample : samples_) unread_bytes += sample.unread_bytes();
  if (unread_bytes > max_unread_bytes()) end_slow(unread_bytes);
}

StreamReactor::Step StreamReactor::next_step() {
  if (closed_ || write_started_at_) return Step::kNothing;
  const bool given_up = client_gone_ || unread_at_end_bytes_ > 0;
  SampleStream* sample = given_up ? nullptr : next_sample_with_chunk();
  if (sample != nullptr) {
    outgoing_bytes_ = sample->unread_bytes();
    outgoing_ = sample->take_chunk();
    outgoing_bytes_ -= sample->unread_bytes();
    outgoing_.set_request_id(request_id());
    write_started_at_ = Clock::now();
    return Step::kWrite;
  }
  if (!given_up && !all_finished()) return Step::kNothing;
  close();
  return Step::kFinish;
}

SampleStream* StreamReactor::next_sample_with_chunk() {
  for (std::size_t i = 0; i < samples_.size(); ++i) {
    SampleStream& sample = samples_[(next_sample_ + i) % samples_.size()];
    if (!sample.has_chunk()) continue;
    next_sample_ = (next_sample_ + i + 1) % samples_.size();
    return &sample;
  }
  return nullptr;
}

void StreamReactor::OnWriteDone(bool ok) {
  {
    std::lock_guard lock(mutex_);
    write_started_at_.reset();
  }
  if (!ok) client_gone("write_failed");
  deliver();
}

void StreamReactor::OnCancel() {
  client_gone("cancelled");
}

void StreamReactor::OnDone() {
  forget_context();
  const std::shared_ptr<StreamReactor> last = std::move(self_);
}

}  // namespace kvcrush
