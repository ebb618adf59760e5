// How the server was told to run. Sources, strongest first: flags, environment (KVCRUSH_*), file (--config),
// defaults.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/status.h"
#include "engine/engine.h"
#include "server/compression_mapper.h"
#include "server/limits.h"
#include "server/logging.h"
#include "server/security_options.h"

namespace kvcrush {

struct ServerConfig {
  std::string model_path;
  std::string model_name;                      // empty: the name in the model file
  std::string chat_template_path;              // empty: the model's own template
  std::string listen = "127.0.0.1:50051";      // gRPC, host:port; port 0: any free one
  std::string http_listen = "127.0.0.1:9090";  // metrics and health; empty: off
  std::string port_file;                       // where the ports are written as JSON; empty: nowhere
  EngineConfig engine;
  int default_max_tokens = 256;
  CompressionDefaults compression;  // what requests leave out
  std::chrono::milliseconds drain_timeout{30'000};
  std::chrono::milliseconds stalled_client_timeout{60'000};  // 0: never
  LogOptions log;
  int max_message_bytes = 16 * 1024 * 1024;  // of one request
  SecurityOptions security;
  ServerLimits limits;
};

struct ConfigOutcome {
  std::optional<ServerConfig> config;  // unset: stop with `exit_code` after showing `message`
  int exit_code = 0;                   // 0 for --help and --version, 2 for wrong options
  std::string message;                 // to stdout when exit_code is 0, else to stderr
};

// What --kv-dtype auto is for the model, device and weights that the rest of the options name.
using AutomaticKvDtype = std::function<std::string(const ServerConfig& config)>;

// `args` without the program's name. Reads the environment and, where named, the file. Never throws.
ConfigOutcome parse_config(
    const std::vector<std::string>& args,
    const AutomaticKvDtype& automatic = [](const ServerConfig& /*config*/) { return "f32"; });

// Rules that span options; the message names the option as spelled on the command line.
Status check_config(const ServerConfig& config);

// "0.25" is a share of the prompt's tokens, "1024" a number of tokens per layer.
Status parse_budget(const std::string& text, v1::KvCompression& compression);

// The default compression as the options spelled it: field names of the wire in messages become options.
Result<CompressionDefaults> resolve_compression(const v1::KvCompression& given, const std::string& kv_dtype);

// "127.0.0.1:50051", "[::1]:0", "localhost:9090". INVALID_ARGUMENT naming `option`.
Status check_address(const std::string& option, const std::string& address);

// The memory that "--kv-memory auto" takes: a quarter of what is available, at most 4 GiB.
std::uint64_t automatic_kv_memory_bytes(std::uint64_t available_bytes);

}  // namespace kvcrush
