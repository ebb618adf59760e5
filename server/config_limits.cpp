#include <spdlog/fmt/fmt.h>

#include <cstdint>

#include "server/bytes.h"
#include "server/config.h"
#include "server/config_options.h"

namespace kvcrush {
namespace {

constexpr const char* kGroup = "Limits";
constexpr double kMaxSeconds = 86400;
constexpr double kMaxAgeSeconds = 20 * 86400;  // gRPC counts milliseconds in an int

struct ByteRange {
  std::uint64_t least = 0;
  std::uint64_t most = 0;
  const char* allowed = "";
};

Result<std::uint64_t> bytes_within(const std::string& option, const std::string& text,
                                   const ByteRange& range) {
  Result<std::uint64_t> bytes = parse_bytes(option, text);
  KVCRUSH_RETURN_IF_ERROR(bytes.status());
  if (*bytes < range.least || *bytes > range.most)
    return invalid_argument(fmt::format("{} is {}, allowed: {}", option, text, range.allowed));
  return bytes;
}

void add_seconds(CLI::App& app, const std::string& name, std::chrono::milliseconds& value, double least,
                 double most, const std::string& help) {
  const auto set = [&value](const double& seconds) {
    value = std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000.0));
  };
  app.add_option_function<double>("--" + name, set, help)
      ->check(CLI::Range(least, most))
      ->group(kGroup)
      ->envname(environment_name(name))
      ->default_str(fmt::format("{:g}", std::chrono::duration<double>(value).count()));
}

}  // namespace

void add_limits(CLI::App& app, ServerLimits& limits, RawLimits& raw) {
  add(app, kGroup, "max-streams-per-connection", limits.max_streams_per_connection,
      "Calls that a connection may have open at a time; more wait at the client")
      ->check(CLI::Range(1, 1 << 20));
  add_seconds(app, "keepalive-time", limits.keepalive_time, 0, kMaxSeconds,
              "Seconds without traffic after which the server pings a connection; 0: never");
  add_seconds(app, "keepalive-timeout", limits.keepalive_timeout, 0.1, kMaxSeconds,
              "Seconds that the answer to such a ping may take before the connection counts as dead");
  add_seconds(app, "min-ping-interval", limits.min_ping_interval, 0, kMaxSeconds,
              "Seconds between pings of an idle client; one that pings more often is disconnected");
  add_seconds(app, "max-connection-age", limits.max_connection_age, 0, kMaxAgeSeconds,
              "Seconds after which a connection takes no new calls, so that clients connect anew and "
              "balancers spread "
              "them, give or take a tenth; 0: never");
  add_seconds(
      app, "max-connection-age-grace", limits.max_connection_age_grace, 0, kMaxAgeSeconds,
      "Seconds that calls may still run on a connection past its age before they are cut off; 0: as long as "
      "they take");
  add(app, kGroup, "max-metadata-bytes", raw.max_metadata_bytes,
      "Metadata of one request in bytes, with suffix KiB, MiB, ...");
  add(app, kGroup, "max-unread-bytes", raw.max_unread_bytes,
      "Output of one stream that its client may leave unread, in bytes with suffix KiB, MiB, ...; past it "
      "the stream "
      "is ended; 0: no bound");
  add_seconds(app, "step-stall-timeout", limits.step_stall_timeout, 0, kMaxSeconds,
              "Seconds that an engine step may take before the server says it is not ready; 0: never");
}

Status apply_limits(const RawLimits& raw, ServerLimits& limits) {
  constexpr ByteRange kMetadata{1024, 1u << 20, "[1KiB, 1MiB]"};
  const Result<std::uint64_t> metadata =
      bytes_within("--max-metadata-bytes", raw.max_metadata_bytes, kMetadata);
  KVCRUSH_RETURN_IF_ERROR(metadata.status());
  limits.max_metadata_bytes = static_cast<int>(*metadata);
  constexpr ByteRange kUnread{4096, 1u << 30, "0 (no bound) or [4KiB, 1GiB]"};
  const bool unbounded = raw.max_unread_bytes == "0";
  const Result<std::uint64_t> unread =
      unbounded ? Result<std::uint64_t>(std::uint64_t{0})
                : bytes_within("--max-unread-bytes", raw.max_unread_bytes, kUnread);
  KVCRUSH_RETURN_IF_ERROR(unread.status());
  limits.max_unread_bytes = *unread;
  return {};
}

}  // namespace kvcrush
