#include "client/cli/progress.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <iostream>

#include "client/cli/screen.h"
#include "client/cli/table.h"
#include "client/cli/text_width.h"

namespace kvcrush::cli {

Progress::Progress(std::function<std::string()> detail) {
  if (isatty(STDERR_FILENO) == 0) return;
  thread_ = std::thread([this, detail = std::move(detail)] { draw_until_stopped(detail); });
}

Progress::~Progress() {
  stop();
}

void Progress::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  wake_.notify_all();
  thread_.join();
  std::cerr << "\r\033[K" << std::flush;
}

void Progress::draw_until_stopped(const std::function<std::string()>& detail) {
  constexpr std::array<const char*, 4> kFrames = {"|", "/", "-", "\\"};
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t frame = 0;; ++frame) {
    const std::string words = detail();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    std::unique_lock lock(mutex_);
    if (stopped_) return;
    const std::string line =
        std::string(kFrames[frame % kFrames.size()]) + ' ' + fixed(elapsed.count(), 1) + " s  " + words;
    // A line that wraps could not be drawn over.
    std::cerr << "\r\033[K" << truncate(line, terminal_size(STDERR_FILENO).columns - 1) << std::flush;
    if (wake_.wait_for(lock, std::chrono::milliseconds(200), [this] { return stopped_; })) return;
  }
}

}  // namespace kvcrush::cli
