#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "server/config.h"

namespace kvcrush {
namespace {

template <typename T>
bool parse_whole(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

// The request's field names mean nothing to who starts the server.
std::string as_options(std::string message) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"compression.num_sink_tokens", "--default-sink-tokens"},
      {"compression.window_tokens", "--default-window-tokens"},
      {"compression.pool_kernel_tokens", "--default-pool-kernel-tokens"},
      {"compression.representative_share", "--default-representative-share"},
      {"compression.budget_tokens", "--default-budget"},
      {"compression.budget_fraction", "--default-budget"},
  };
  for (const auto& [field, option] : kNames) {
    if (message.starts_with(field)) return std::string(option) + message.substr(field.size());
  }
  return message;
}

bool is_device(std::string_view device) {
  if (device == "cpu") return true;
  constexpr std::string_view kCuda = "cuda:";
  unsigned ordinal = 0;
  return device.starts_with(kCuda) && parse_whole(device.substr(kCuda.size()), ordinal);
}

}  // namespace

Status parse_budget(const std::string& text, CompressionParams& params) {
  params.budget_tokens.reset();
  params.budget_fraction.reset();
  Status refused = invalid_argument(fmt::format(
      "--default-budget is \"{}\", allowed: a share with a decimal point in (0, 1], or whole tokens >= 1",
      text));
  if (text.find('.') == std::string::npos) {
    int tokens = 0;
    if (!parse_whole(text, tokens) || tokens < 1) return refused;
    params.budget_tokens = tokens;
    return {};
  }
  double fraction = 0;
  if (!parse_whole(text, fraction) || !(fraction > 0.0 && fraction <= 1.0)) return refused;
  params.budget_fraction = fraction;
  return {};
}

Status check_address(const std::string& option, const std::string& address) {
  const std::size_t colon = address.rfind(':');
  unsigned port = 0;
  const bool good = colon != std::string::npos && colon > 0 &&
                    parse_whole(std::string_view(address).substr(colon + 1), port) && port <= 65535 &&
                    address.find_first_of(" ,/") == std::string::npos;
  if (good) return {};
  return invalid_argument(
      fmt::format("{} is \"{}\", allowed: host:port with port in [0, 65535]", option, address));
}

std::uint64_t automatic_kv_memory_bytes(std::uint64_t available_bytes) {
  constexpr std::uint64_t kMost = 4ull << 30;
  constexpr std::uint64_t kWhenUnknown = 1ull << 30;
  return available_bytes == 0 ? kWhenUnknown : std::min(available_bytes / 4, kMost);
}

Status check_config(const ServerConfig& config) {
  if (config.model_path.empty()) {
    return invalid_argument("--model is missing, allowed: the path of a .gguf file or a Hugging Face folder");
  }
  KVCRUSH_RETURN_IF_ERROR(check_address("--listen", config.listen));
  if (!config.http_listen.empty()) {
    KVCRUSH_RETURN_IF_ERROR(check_address("--http-listen", config.http_listen));
    if (config.http_listen == config.listen && !config.listen.ends_with(":0")) {
      return invalid_argument(fmt::format(
          "--http-listen is \"{}\", allowed: another address than --listen, or off", config.http_listen));
    }
  }
  const EngineConfig& engine = config.engine;
  if (!is_device(engine.device)) {
    return invalid_argument(fmt::format("--device is \"{}\", allowed: cpu or cuda:N", engine.device));
  }
  if (engine.kv_memory_bytes == 0) return invalid_argument("--kv-memory is 0, allowed: > 0 bytes, or auto");
  if (engine.max_context_tokens == 1) {
    return invalid_argument(
        "--max-context is 1, allowed: 0 (the model's) or >= 2 (a prompt and an output token)");
  }
  if (const Status status = validate(config.compression_defaults); !status.ok()) {
    return invalid_argument(as_options(status.message()));
  }
  return {};
}

}  // namespace kvcrush
