// Ctrl-C: the first one asks the running call to stop, so that the server frees its KV blocks; the next one
// ends the process.
#pragma once

#include <chrono>
#include <mutex>
#include <stop_token>
#include <thread>

namespace kvcrush::cli {

class Interrupt {
 public:
  // Blocks SIGINT in this thread and in all it starts later, and waits for it in a thread of its own:
  // construct it before any other thread exists.
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  // A fresh token for one call. Until disarm(), the first Ctrl-C requests its stop.
  std::stop_token arm();
  // No call runs: Ctrl-C ends the process with 130.
  void disarm();

 private:
  void wait_for_signals();
  void on_interrupt();

  std::mutex mutex_;
  std::stop_source source_;  // guarded by mutex_
  bool armed_ = false;       // guarded by mutex_
  bool closing_ = false;     // guarded by mutex_
  std::thread thread_;
};

// False: stop was requested before the time was over.
bool wait_for(std::chrono::duration<double> time, const std::stop_token& stop);

}  // namespace kvcrush::cli
