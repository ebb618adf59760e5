#include "client/cli/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <condition_variable>

#include "client/cli/connection.h"

namespace kvcrush::cli {
namespace {

sigset_t interrupt_signal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

Interrupt::Interrupt() {
  const sigset_t set = interrupt_signal();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread([this] { wait_for_signals(); });
}

Interrupt::~Interrupt() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  pthread_kill(thread_.native_handle(), SIGINT);
  thread_.join();
}

std::stop_token Interrupt::arm() {
  const std::lock_guard lock(mutex_);
  source_ = std::stop_source();
  armed_ = true;
  return source_.get_token();
}

void Interrupt::disarm() {
  const std::lock_guard lock(mutex_);
  armed_ = false;
}

void Interrupt::wait_for_signals() {
  const sigset_t set = interrupt_signal();
  int signal_number = 0;
  while (sigwait(&set, &signal_number) == 0) {
    {
      const std::lock_guard lock(mutex_);
      if (closing_) return;
    }
    on_interrupt();
  }
}

void Interrupt::on_interrupt() {
  std::stop_source source = [this] {
    const std::lock_guard lock(mutex_);
    // No destructors: they would wait for a call that hangs. The closed connection tells the server.
    if (!armed_ || source_.stop_requested()) _exit(kExitInterrupted);
    return source_;
  }();
  source.request_stop();  // runs the cancel callbacks, so outside the lock
}

bool wait_for(std::chrono::duration<double> time, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  wake.wait_for(lock, stop, time, [] { return false; });
  return !stop.stop_requested();
}

}  // namespace kvcrush::cli
