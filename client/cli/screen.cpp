#include "client/cli/screen.h"

#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <string_view>

namespace kvcrush::cli {
namespace {

constexpr std::string_view kEnter = "\033[?1049h\033[?25l";  // second screen, no cursor
constexpr std::string_view kLeave = "\033[?25h\033[?1049l";
constexpr std::array<int, 2> kEndingSignals = {SIGTERM, SIGHUP};

// For the signal handler, which can reach nothing else.
termios saved_input;
volatile sig_atomic_t input_changed = 0;

void put(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDOUT_FILENO, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

// Only calls that a signal handler may make.
void restore_terminal() {
  if (input_changed != 0) tcsetattr(STDIN_FILENO, TCSANOW, &saved_input);
  input_changed = 0;
  put(kLeave);
}

void on_ending_signal(int number) {
  restore_terminal();
  signal(number, SIG_DFL);
  raise(number);
}

// Keys come at once and are not echoed; Ctrl-C stays a signal.
bool read_single_keys() {
  if (isatty(STDIN_FILENO) == 0 || tcgetattr(STDIN_FILENO, &saved_input) != 0) return false;
  termios changed = saved_input;
  changed.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
  if (tcsetattr(STDIN_FILENO, TCSANOW, &changed) != 0) return false;
  input_changed = 1;
  return true;
}

}  // namespace

ScreenSize terminal_size(int descriptor) {
  winsize size{};
  if (ioctl(descriptor, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return {};
  return {size.ws_col, size.ws_row};
}

bool Screen::available() {
  return isatty(STDOUT_FILENO) != 0;
}

Screen::Screen(const std::stop_token& stop)
    : keys_(read_single_keys()), on_stop_(stop, [this] { restore(); }) {
  for (const int number : kEndingSignals) signal(number, on_ending_signal);
  const std::lock_guard lock(mutex_);
  if (!restored_) put(kEnter);
}

Screen::~Screen() {
  restore();
  for (const int number : kEndingSignals) signal(number, SIG_DFL);
}

void Screen::restore() {
  const std::lock_guard lock(mutex_);
  if (restored_) return;
  restored_ = true;
  restore_terminal();
}

ScreenSize Screen::size() const {
  return terminal_size(STDOUT_FILENO);
}

void Screen::draw(const std::vector<std::string>& lines, std::size_t emphasised) {
  std::string text = "\033[H";
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) text += "\r\n";
    text += i == emphasised ? "\033[7m" + lines[i] + "\033[0m" : lines[i];
    text += "\033[K";
  }
  text += "\033[J";
  const std::lock_guard lock(mutex_);
  if (!restored_) put(text);
}

std::optional<char> Screen::wait_key(std::chrono::duration<double> time, const std::stop_token& stop) {
  constexpr int kSliceMs = 50;  // a stop request wakes nobody
  const auto until = std::chrono::steady_clock::now() + time;
  while (!stop.stop_requested() && std::chrono::steady_clock::now() < until) {
    pollfd input{.fd = keys_ ? STDIN_FILENO : -1, .events = POLLIN, .revents = 0};
    if (poll(&input, 1, kSliceMs) <= 0) continue;
    char key = 0;
    if (read(STDIN_FILENO, &key, 1) == 1) return key;
    keys_ = false;  // the terminal has gone
  }
  return std::nullopt;
}

}  // namespace kvcrush::cli
