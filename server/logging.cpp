#include "server/logging.h"

#include <spdlog/async.h>
#include <spdlog/fmt/fmt.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "server/trace_context.h"

namespace kvcrush {
namespace {

constexpr std::size_t kQueuedLines = 8192;
std::atomic<LogFormat> g_format{LogFormat::kText};

// Bytes that are not UTF-8 become U+FFFD: a log line must never fail.
std::string json_string(std::string_view value) {
  return nlohmann::json(value).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool is_plain(std::string_view value) {
  return !value.empty() && std::all_of(value.begin(), value.end(), [](char c) {
    return c > ' ' && c < 127 && c != '"' && c != '=' && c != '\\';
  });
}

}  // namespace

void init_logging(const LogOptions& options, std::vector<spdlog::sink_ptr> sinks) {
  g_format = options.format;
  std::shared_ptr<spdlog::logger> logger;
  if (sinks.empty()) {
    spdlog::init_thread_pool(kQueuedLines, 1);
    logger = std::make_shared<spdlog::async_logger>(
        "kvcrush", std::make_shared<spdlog::sinks::stderr_sink_mt>(), spdlog::thread_pool(),
        spdlog::async_overflow_policy::overrun_oldest);
  } else {
    logger = std::make_shared<spdlog::logger>("kvcrush", sinks.begin(), sinks.end());
  }
  const char* pattern = options.format == LogFormat::kJson
                            ? R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l",%v})"
                            : "%Y-%m-%dT%H:%M:%S.%eZ level=%l %v";
  logger->set_formatter(std::make_unique<spdlog::pattern_formatter>(pattern, spdlog::pattern_time_type::utc));
  logger->set_level(spdlog::level::from_str(options.level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

bool shutdown_logging() {
  constexpr std::chrono::seconds kPatience{2};
  std::packaged_task<void()> shut_down([] { spdlog::shutdown(); });  // waits for the thread that writes
  const std::future<void> done = shut_down.get_future();
  std::thread thread(std::move(shut_down));
  const bool in_time = done.wait_for(kPatience) == std::future_status::ready;
  if (in_time) {
    thread.join();
  } else {
    thread.detach();
  }
  return in_time;
}

LogLine::LogLine(spdlog::level::level_enum level, std::string_view event)
    : level_(level), enabled_(spdlog::default_logger_raw() != nullptr && spdlog::should_log(level)) {
  with("event", event);
  // As OpenTelemetry numbers severities: TRACE 1, DEBUG 5, INFO 9, WARN 13, ERROR 17, FATAL 21.
  if (g_format == LogFormat::kJson) with("severity_number", static_cast<int>(level) * 4 + 1);
}

LogLine::~LogLine() {
  if (enabled_) spdlog::log(level_, "{}", line_);
}

void LogLine::add(std::string_view key, std::string_view text_value, std::string_view json_value) {
  if (!line_.empty()) line_ += g_format == LogFormat::kJson ? ',' : ' ';
  if (g_format == LogFormat::kJson) {
    line_.append(json_string(key)).append(":").append(json_value);
  } else {
    line_.append(key).append("=").append(text_value);
  }
}

LogLine& LogLine::with(std::string_view key, std::string_view value) {
  if (!enabled_) return *this;
  std::string quoted = json_string(value);
  add(key, is_plain(value) ? std::string(value) : quoted, quoted);
  return *this;
}

LogLine& LogLine::with_request(std::string_view request_id, std::string_view traceparent) {
  with("request_id", request_id);
  if (traceparent.empty()) return *this;
  return with("trace_id", trace_id_of(traceparent))
      .with("span_id", span_id_of(traceparent))
      .with("trace_flags", trace_flags_of(traceparent));
}

LogLine& LogLine::with(std::string_view key, bool value) {
  if (enabled_) add(key, value ? "true" : "false", value ? "true" : "false");
  return *this;
}

LogLine& LogLine::with(std::string_view key, double value) {
  if (enabled_) add(key, fmt::format("{:.3f}", value), nlohmann::json(value).dump());
  return *this;
}

LogLine& LogLine::with(std::string_view key, std::int64_t value) {
  if (enabled_) add(key, fmt::format("{}", value), fmt::format("{}", value));
  return *this;
}

}  // namespace kvcrush
