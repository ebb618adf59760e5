#include "server/config.h"

#include <spdlog/fmt/fmt.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>

#include "server/bytes.h"
#include "server/config_options.h"

namespace kvcrush {
namespace {

constexpr int kExitUsage = 2;
constexpr double kMaxSeconds = 86400;

// What is spelled differently from how ServerConfig stores it.
struct RawOptions {
  std::string kv_memory = "auto";
  std::string swap_memory = "auto";
  std::string http_listen = "127.0.0.1:9090";
  v1::KvCompression compression;
  double drain_timeout_s = 30;
  double stalled_client_timeout_s = 60;
  std::string log_format = "text";
  std::string max_message_bytes = "16MiB";
  RawLimits limits;
};

// CLI11 lets a file win over the environment; leaving out the file's value where a variable is set turns that
// round.
class FileBelowEnvironment : public CLI::ConfigTOML {
 public:
  explicit FileBelowEnvironment(const CLI::App& app) : app_(app) {}

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::vector<CLI::ConfigItem> found = CLI::ConfigTOML::from_config(input);
    for (const CLI::ConfigItem& item : found) {
      if (!item.parents.empty())
        throw CLI::ConfigError::Extras(item.fullname() + " (the file has no sections)");
    }
    std::erase_if(found, [this](const CLI::ConfigItem& item) {
      if (app_.get_option_no_throw("--" + item.name) == nullptr) return false;
      const char* value = std::getenv(environment_name(item.name).c_str());
      return value != nullptr && *value != '\0';
    });
    return found;
  }

 private:
  const CLI::App& app_;
};

void add_server_options(CLI::App& app, ServerConfig& config, RawOptions& raw) {
  constexpr const char* kGroup = "Server";
  add(app, kGroup, "listen", config.listen, "gRPC address, host:port; port 0 takes any free port");
  add(app, kGroup, "http-listen", raw.http_listen,
      "Address of /metrics, /healthz and /readyz, host:port; port 0 takes any free port; off: none");
  add(app, kGroup, "port-file", config.port_file,
      "File that is written once the server is ready: {\"grpc_port\":..,\"http_port\":..}");
  add(app, kGroup, "drain-timeout", raw.drain_timeout_s,
      "Seconds that running requests may still take after SIGTERM or SIGINT before they are aborted")
      ->check(CLI::Range(0.0, kMaxSeconds));
  add(app, kGroup, "stalled-client-timeout", raw.stalled_client_timeout_s,
      "Seconds that a client may leave text unread before its request is aborted; 0: never")
      ->check(CLI::Range(0.0, kMaxSeconds));
  add(app, kGroup, "max-message-bytes", raw.max_message_bytes,
      "Largest request in bytes, with suffix KiB, MiB, ...");
  add(app, kGroup, "log-level", config.log.level, "trace, debug, info, warn, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}).description(""));
  add(app, kGroup, "log-format", raw.log_format, "text (key=value) or json (one object per line)")
      ->check(CLI::IsMember({"text", "json"}).description(""));
}

void add_engine_options(CLI::App& app, ServerConfig& config, RawOptions& raw) {
  constexpr const char* kGroup = "Model and engine";
  EngineConfig& engine = config.engine;
  add(app, kGroup, "model", config.model_path,
      "Path of a .gguf file (of a split model the first), a folder that holds one, or a Hugging Face folder "
      "or cache; "
      "required");
  add(app, kGroup, "model-name", config.model_name,
      "Name shown to clients; default: the one in the model file");
  add(app, kGroup, "chat-template", config.chat_template_path,
      "File of a Jinja chat template to use instead of the model's own; one that is not understood is an "
      "error");
  engine.device = "auto";
  add(app, kGroup, "device", engine.device,
      "cpu, cuda:N, or auto: the first GPU where this build serves GPUs and there is one, else the CPU");
  add(app, kGroup, "weight-dtype", engine.weight_dtype,
      "Weights and activations: f32; on a GPU also bf16 and f16; auto: bf16 on a GPU, on the CPU quantised "
      "weights as the file has them and activations in int8")
      ->check(CLI::IsMember({"auto", "bf16", "f16", "f32"}).description(""));
  add(app, kGroup, "cuda-graphs", engine.cuda_graphs,
      "true or false: on a GPU, decode steps of a shape that came before start as one CUDA graph");
  add(app, kGroup, "threads", engine.num_threads, "CPU threads of the engine; 0: all cores")
      ->check(CLI::Range(0, 1024));
  add(app, kGroup, "kv-memory", raw.kv_memory,
      "Bytes of the KV cache's block pool, with suffix KiB, MiB, GiB (1024) or KB, MB, GB (1000); auto: a "
      "quarter of "
      "the available memory, at most 4 GiB; on a GPU what weights and workspace leave");
  engine.kv_dtype = "auto";
  add(app, kGroup, "kv-dtype", engine.kv_dtype,
      "How keys and values are stored where a request does not say: f32, bf16, f16, int8 or int4; auto: f16 "
      "on a GPU; on the CPU bf16 where weights stay quantised, else f32")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "f16", "int8", "int4"}).description(""));
  add(app, kGroup, "max-batch-tokens", engine.max_batch_tokens,
      "Tokens of one engine step, prefill and decode together")
      ->check(CLI::Range(1, 1 << 20));
  add(app, kGroup, "max-running", engine.max_running_sequences, "Sequences that hold KV blocks at a time")
      ->check(CLI::Range(1, 65536));
  add(app, kGroup, "max-waiting", engine.max_waiting_sequences,
      "Sequences that may queue; more are answered with RESOURCE_EXHAUSTED")
      ->check(CLI::Range(1, 1 << 20));
  add(app, kGroup, "max-waiting-tokens", engine.max_waiting_tokens,
      "Prompt tokens that may queue; more are answered with RESOURCE_EXHAUSTED")
      ->check(CLI::Range(1, 1 << 30));
  add(app, kGroup, "prefix-cache", engine.prefix_cache,
      "true or false: a prompt starts behind what the KV pool still has of an earlier one with the same "
      "beginning");
  add(app, kGroup, "swap-memory", raw.swap_memory,
      "Host memory for KV caches of sequences that had to give way, with suffix MiB, GiB, ...; 0: they are "
      "always "
      "recomputed; auto: a quarter of --kv-memory, at most 4 GiB");
  add(app, kGroup, "inject-faults", engine.faults,
      "For trying out alerts and clients, never where people are served: "
      "nan=SHARE,exception=SHARE,memory=SHARE,stall=SHARE,stall-ms=N,seed=N; shares of rows (nan) or steps");
  add(app, kGroup, "max-context", engine.max_context_tokens,
      "Tokens of prompt and output together; 0: the model's")
      ->check(CLI::Range(0, 1 << 24));
}

void add_request_defaults(CLI::App& app, ServerConfig& config, RawOptions& raw) {
  constexpr const char* kGroup = "Defaults of requests";
  add(app, kGroup, "default-max-tokens", config.default_max_tokens,
      "Output tokens of a request that names no max_tokens, cut to what fits")
      ->check(CLI::Range(1, 1 << 24));
  add_compression_defaults(app, kGroup, raw.compression);
}

std::chrono::milliseconds to_milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000.0));
}

Status apply_swap_memory(const std::string& text, EngineConfig& engine) {
  constexpr std::uint64_t kMostAutomatic = std::uint64_t{4} << 30;
  if (text == "0" || text == "auto") {
    engine.swap_memory_bytes = text == "0" ? 0 : std::min(engine.kv_memory_bytes / 4, kMostAutomatic);
    return {};
  }
  const Result<std::uint64_t> bytes = parse_bytes("--swap-memory", text);
  KVCRUSH_RETURN_IF_ERROR(bytes.status());
  engine.swap_memory_bytes = *bytes;
  return {};
}

Status apply_raw(const RawOptions& raw, const AutomaticKvDtype& automatic, ServerConfig& config) {
  config.http_listen = raw.http_listen == "off" ? "" : raw.http_listen;
  config.drain_timeout = to_milliseconds(raw.drain_timeout_s);
  config.stalled_client_timeout = to_milliseconds(raw.stalled_client_timeout_s);
  config.log.format = raw.log_format == "json" ? LogFormat::kJson : LogFormat::kText;
  if (config.engine.kv_dtype == "auto") config.engine.kv_dtype = automatic(config);
  Result<CompressionDefaults> compression = resolve_compression(raw.compression, config.engine.kv_dtype);
  KVCRUSH_RETURN_IF_ERROR(compression.status());
  config.compression = std::move(compression).value();
  if (raw.kv_memory == "auto") {
    config.engine.kv_memory_bytes = automatic_kv_memory_bytes(available_memory_bytes());
    config.engine.fills_gpu = true;
  } else {
    const Result<std::uint64_t> bytes = parse_bytes("--kv-memory", raw.kv_memory);
    KVCRUSH_RETURN_IF_ERROR(bytes.status());
    config.engine.kv_memory_bytes = *bytes;
  }
  KVCRUSH_RETURN_IF_ERROR(apply_swap_memory(raw.swap_memory, config.engine));
  const Result<std::uint64_t> message_bytes = parse_bytes("--max-message-bytes", raw.max_message_bytes);
  KVCRUSH_RETURN_IF_ERROR(message_bytes.status());
  constexpr std::uint64_t kLeastMessageBytes = 1024;
  constexpr std::uint64_t kMostMessageBytes = 1u << 30;
  if (*message_bytes < kLeastMessageBytes || *message_bytes > kMostMessageBytes) {
    return invalid_argument(
        fmt::format("--max-message-bytes is {}, allowed: [1KiB, 1GiB]", raw.max_message_bytes));
  }
  config.max_message_bytes = static_cast<int>(*message_bytes);
  KVCRUSH_RETURN_IF_ERROR(apply_limits(raw.limits, config.limits));
  return check_config(config);
}

// CLI11 looks at the variable of --config only after it has read the file.
std::vector<std::string> with_config_of_environment(std::vector<std::string> args) {
  const bool given = std::any_of(args.begin(), args.end(), [](const std::string& arg) {
    return arg == "--config" || arg.starts_with("--config=");
  });
  const char* path = std::getenv("KVCRUSH_CONFIG");
  if (!given && path != nullptr && *path != '\0') args.push_back("--config=" + std::string(path));
  return args;
}

// As CLI11 wants them.
std::vector<std::string> reversed(std::vector<std::string> args) {
  std::reverse(args.begin(), args.end());
  return args;
}

ConfigOutcome usage_error(const std::string& what) {
  return {std::nullopt, kExitUsage, what + "\nRun kvcrush-server --help for the options.\n"};
}

}  // namespace

ConfigOutcome parse_config(const std::vector<std::string>& args, const AutomaticKvDtype& automatic) {
  ServerConfig config;
  RawOptions raw;
  CLI::App app("KVCrush Serve: LLM inference over gRPC with a pruned KV cache.", "kvcrush-server");
  app.set_version_flag("--version", KVCRUSH_VERSION);
  app.footer(
      "Every option --some-name can also be set by the variable KVCRUSH_SOME_NAME or as some-name = value in "
      "the "
      "file of --config. Flags win over the environment, the environment over the file.");
  app.set_config("--config", "", "TOML or INI file of options");
  app.config_formatter(std::make_shared<FileBelowEnvironment>(app));
  app.allow_config_extras(CLI::config_extras_mode::error);
  add_engine_options(app, config, raw);
  add_server_options(app, config, raw);
  add_security_options(app, "Security", config.security);
  add_limits(app, config.limits, raw.limits);
  add_request_defaults(app, config, raw);
  try {
    app.parse(reversed(with_config_of_environment(args)));
  } catch (const CLI::CallForHelp&) {
    return {std::nullopt, 0, app.help()};
  } catch (const CLI::CallForVersion&) {
    return {std::nullopt, 0, "kvcrush-server " KVCRUSH_VERSION "\n"};
  } catch (const CLI::Error& error) {
    return usage_error(error.what());
  } catch (const std::exception& error) {
    return usage_error(error.what());
  }
  if (const Status status = apply_raw(raw, automatic, config); !status.ok())
    return usage_error(status.message());
  return {std::move(config), 0, ""};
}

}  // namespace kvcrush
