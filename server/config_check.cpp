#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <string_view>

#include "server/config.h"
#include "server/config_options.h"

namespace kvcrush {
namespace {

bool is_device(std::string_view device) {
  if (device == "auto" || device == "cpu") return true;
  constexpr std::string_view kCuda = "cuda:";
  unsigned ordinal = 0;
  return device.starts_with(kCuda) && parse_whole(device.substr(kCuda.size()), ordinal);
}

}  // namespace

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
  KVCRUSH_RETURN_IF_ERROR(check_security(config.security, config.listen));
  const EngineConfig& engine = config.engine;
  if (!is_device(engine.device)) {
    return invalid_argument(fmt::format("--device is \"{}\", allowed: auto, cpu or cuda:N", engine.device));
  }
  if (engine.kv_memory_bytes == 0) return invalid_argument("--kv-memory is 0, allowed: > 0 bytes, or auto");
  if (engine.max_context_tokens == 1) {
    return invalid_argument(
        "--max-context is 1, allowed: 0 (the model's) or >= 2 (a prompt and an output token)");
  }
  return {};
}

}  // namespace kvcrush
