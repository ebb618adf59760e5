// A few threads between the engine loop and gRPC: the loop only enqueues a session, these threads detokenise
// and write.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace kvcrush {

class GenerateSession;

class StreamPump {
 public:
  explicit StreamPump(int num_threads);
  ~StreamPump();  // what is still queued is dropped
  StreamPump(const StreamPump&) = delete;
  StreamPump& operator=(const StreamPump&) = delete;

  // Has session->pump() called soon, on one of the threads. Returns at once.
  void enqueue(std::shared_ptr<GenerateSession> session);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::shared_ptr<GenerateSession>> queue_;  // guarded by mutex_
  bool stopping_ = false;                               // guarded by mutex_
  std::vector<std::jthread> threads_;
};

}  // namespace kvcrush
