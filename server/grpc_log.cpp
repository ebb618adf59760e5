#include "server/grpc_log.h"

#include <grpc/support/log.h>
#include <spdlog/fmt/fmt.h>

#include <chrono>
#include <map>
#include <mutex>
#include <string_view>
#include <utility>

#include "server/logging.h"

namespace kvcrush {
namespace {

using Clock = std::chrono::steady_clock;

class Throttle {
 public:
  // How many messages of this place the line stands for; 0: no line now.
  int take(const char* file, int line) {
    constexpr std::chrono::seconds kBetweenLines{1};
    const Clock::time_point now = Clock::now();
    std::lock_guard lock(mutex_);
    Place& place = places_[{file, line}];
    ++place.num_unlogged;
    if (place.logged && now - place.logged_at < kBetweenLines) return 0;
    place.logged = true;
    place.logged_at = now;
    return std::exchange(place.num_unlogged, 0);
  }

 private:
  struct Place {
    bool logged = false;
    Clock::time_point logged_at;
    int num_unlogged = 0;
  };

  std::mutex mutex_;
  std::map<std::pair<const char*, int>, Place>
      places_;  // guarded by mutex_; as many as gRPC has calls of gpr_log
};

void log(gpr_log_func_args* args) {
  static auto& throttle = *new Throttle;  // gRPC's threads may outlive static objects
  const int num_messages = throttle.take(args->file, args->line);
  if (num_messages == 0) return;
  const std::string_view file = args->file;
  LogLine(args->severity == GPR_LOG_SEVERITY_ERROR ? spdlog::level::warn : spdlog::level::debug, "grpc")
      .with("at", fmt::format("{}:{}", file.substr(file.rfind('/') + 1), args->line))
      .with("messages", num_messages)
      .with("text", args->message);
}

}  // namespace

void take_grpc_log() {
  gpr_set_log_function(log);
}

}  // namespace kvcrush
