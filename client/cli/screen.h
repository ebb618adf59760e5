// A terminal's second screen, redrawn in place. However the program ends, the terminal is as it was.
#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace kvcrush::cli {

struct ScreenSize {
  int columns = 80;
  int rows = 24;
};

// Of the terminal that the file descriptor is; the default where it is none.
ScreenSize terminal_size(int descriptor);

class Screen {
 public:
  // Whether standard output is a terminal.
  static bool available();

  // Restores the terminal once `stop` is requested: a second Ctrl-C ends the process without destructors. One
  // at a time.
  explicit Screen(const std::stop_token& stop);
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  ScreenSize size() const;
  // `emphasised`: index of the line in reverse video; past the end: none.
  void draw(const std::vector<std::string>& lines, std::size_t emphasised);
  // The key that was pressed within the time, or none: time is over, or stop was requested.
  std::optional<char> wait_key(std::chrono::duration<double> time, const std::stop_token& stop);

 private:
  void restore();

  std::mutex mutex_;
  bool restored_ = false;  // guarded by mutex_
  bool keys_;              // standard input is a terminal
  std::stop_callback<std::function<void()>> on_stop_;
};

}  // namespace kvcrush::cli
