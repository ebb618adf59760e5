// A one-line sign of life on a terminal while the server reads the prompt. Prints nothing when stderr is no
// terminal.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace kvcrush::cli {

class Progress {
 public:
  // `detail` is asked for a few words several times a second on a thread of its own ("3,712 prompt tokens,
  // 980 blocks").
  explicit Progress(std::function<std::string()> detail);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Clears the line. May be called more than once.
  void stop();

 private:
  void draw_until_stopped(const std::function<std::string()>& detail);

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopped_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace kvcrush::cli
