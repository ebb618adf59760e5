// Structured log lines: key=value text, or one JSON object per line. All lines of a request carry request_id,
// and the ids of the caller's trace where it has one. Fields: docs/operations/logging.md.
#pragma once

#include <spdlog/common.h>

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kvcrush {

enum class LogFormat { kText, kJson };

struct LogOptions {
  std::string level = "info";  // trace, debug, info, warn, error, off
  LogFormat format = LogFormat::kText;
};

// Starts logging to stderr through a bounded queue that drops the oldest lines when stderr is blocked, so
// that no caller ever waits; with `sinks` lines go there at once instead (tests). Not thread-safe.
void init_logging(const LogOptions& options, std::vector<spdlog::sink_ptr> sinks = {});
// Writes what is queued. False: stderr has not taken it within two seconds, and the thread that writes still
// waits; only _exit() ends the process now.
bool shutdown_logging();

// One line, written when the object goes: LogLine(spdlog::level::info, "finished").with("request_id", id).
class LogLine {
 public:
  LogLine(spdlog::level::level_enum level, std::string_view event);
  ~LogLine();
  LogLine(const LogLine&) = delete;
  LogLine& operator=(const LogLine&) = delete;

  LogLine& with(std::string_view key, std::string_view value);
  LogLine& with(std::string_view key, const char* value) { return with(key, std::string_view(value)); }
  LogLine& with(std::string_view key, const std::string& value) { return with(key, std::string_view(value)); }
  LogLine& with(std::string_view key, bool value);
  LogLine& with(std::string_view key, double value);
  LogLine& with(std::string_view key, std::int64_t value);
  // The request that the line is about; `traceparent` (trace_context.h) is valid, or empty for none.
  LogLine& with_request(std::string_view request_id, std::string_view traceparent);
  template <std::integral T>
  LogLine& with(std::string_view key, T value) {
    return with(key, static_cast<std::int64_t>(value));
  }

 private:
  void add(std::string_view key, std::string_view text_value, std::string_view json_value);

  spdlog::level::level_enum level_;
  bool enabled_;
  std::string line_;
};

}  // namespace kvcrush
