#include "server/stream_pump.h"

#include <utility>

#include "server/generate_session.h"

namespace kvcrush {

StreamPump::StreamPump(int num_threads) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { run(); });
}

StreamPump::~StreamPump() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_all();
  threads_.clear();  // joins
}

void StreamPump::enqueue(std::shared_ptr<GenerateSession> session) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    queue_.push_back(std::move(session));
  }
  ready_.notify_one();
}

void StreamPump::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    ready_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    std::shared_ptr<GenerateSession> session = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    session->pump();
    session.reset();
    lock.lock();
  }
}

}  // namespace kvcrush
