#include "server/logging.h"

#include <spdlog/async.h>
#include <spdlog/fmt/fmt.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <nlohmann/json.hpp>

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

void shutdown_logging() {
  spdlog::shutdown();
}

LogLine::LogLine(spdlog::level::level_enum level, std::string_view event)
    : level_(level), enabled_(spdlog::default_logger_raw() != nullptr && spdlog::should_log(level)) {
  with("event", event);
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
