#include "server/config.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "server/bytes.h"

namespace kvcrush {
namespace {

using ::testing::TempDir;

// Variables of one test, taken back at its end.
class Environment {
 public:
  void set(const std::string& name, const std::string& value) {
    names_.push_back(name);
    setenv(name.c_str(), value.c_str(), 1);
  }
  ~Environment() {
    for (const std::string& name : names_) unsetenv(name.c_str());
  }

 private:
  std::vector<std::string> names_;
};

std::string config_file(const std::string& name, const std::string& text) {
  const std::string path = TempDir() + name;
  std::ofstream(path) << text;
  return path;
}

ServerConfig parse_good(std::vector<std::string> args) {
  args.insert(args.begin(), {"--model", "some.gguf"});
  ConfigOutcome outcome = parse_config(args);
  EXPECT_TRUE(outcome.config.has_value()) << outcome.message;
  return outcome.config.value_or(ServerConfig());
}

// The message of a refused start.
std::string parse_bad(std::vector<std::string> args) {
  args.insert(args.begin(), {"--model", "some.gguf"});
  const ConfigOutcome outcome = parse_config(args);
  EXPECT_FALSE(outcome.config.has_value());
  EXPECT_EQ(outcome.exit_code, 2);
  return outcome.message;
}

void expect_mentions(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts)
    EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
}

TEST(Config, AutomaticKvDtypeIsTheDevices) {
  const auto automatic = [](const ServerConfig& config) {
    return config.engine.device == "cuda:1" ? "f16" : config.engine.weight_dtype == "auto" ? "bf16" : "f32";
  };
  const auto dtype_of = [&](std::vector<std::string> args) {
    args.insert(args.begin(), {"--model", "some.gguf"});
    const ConfigOutcome outcome = parse_config(args, automatic);
    EXPECT_TRUE(outcome.config.has_value()) << outcome.message;
    EXPECT_EQ(to_string(outcome.config->compression.engine_dtype), outcome.config->engine.kv_dtype);
    return outcome.config->engine.kv_dtype;
  };
  EXPECT_EQ(dtype_of({}), "bf16");
  EXPECT_EQ(dtype_of({"--weight-dtype=f32"}), "f32");
  EXPECT_EQ(dtype_of({"--device", "cuda:1"}), "f16");
  EXPECT_EQ(dtype_of({"--kv-dtype=auto", "--device=cuda:1"}), "f16");
  EXPECT_EQ(dtype_of({"--kv-dtype=int8", "--device=cuda:1"}), "int8");
}

TEST(Config, DefaultsAreThoseOfTheHelp) {
  const ServerConfig config = parse_good({});
  EXPECT_EQ(config.listen, "127.0.0.1:50051");
  EXPECT_EQ(config.http_listen, "127.0.0.1:9090");
  EXPECT_EQ(config.default_max_tokens, 256);
  EXPECT_EQ(config.drain_timeout, std::chrono::seconds(30));
  EXPECT_EQ(config.stalled_client_timeout, std::chrono::seconds(60));
  EXPECT_FALSE(config.compression.policy.compression.has_value());
  EXPECT_FALSE(config.compression.policy.kv_dtype.has_value());
  EXPECT_EQ(config.compression.params.budget_fraction, 0.25);
  EXPECT_EQ(config.compression.engine_dtype, KvDtype::kF32);
  EXPECT_EQ(config.engine.kv_dtype, "f32");  // auto, on a machine without a GPU
  EXPECT_EQ(config.engine.max_batch_tokens, EngineConfig().max_batch_tokens);
  EXPECT_GT(config.engine.kv_memory_bytes, 0u);
  EXPECT_LE(config.engine.kv_memory_bytes, 4ull << 30);
}

TEST(Config, FlagBeatsEnvironmentBeatsFileBeatsDefault) {
  const std::string path = config_file("precedence.toml", "max-running = 3\nmax-waiting = 4\nthreads = 5\n");
  Environment environment;
  environment.set("KVCRUSH_MAX_RUNNING", "7");
  environment.set("KVCRUSH_MAX_WAITING", "8");
  const ServerConfig config = parse_good({"--config", path, "--max-running", "11"});
  EXPECT_EQ(config.engine.max_running_sequences, 11);
  EXPECT_EQ(config.engine.max_waiting_sequences, 8);
  EXPECT_EQ(config.engine.num_threads, 5);
  EXPECT_EQ(config.engine.max_batch_tokens, 512);
}

TEST(Config, FileCanBeNamedByTheEnvironment) {
  Environment environment;
  environment.set("KVCRUSH_CONFIG", config_file("named.toml", "listen = \"127.0.0.2:7000\"\n"));
  EXPECT_EQ(parse_good({}).listen, "127.0.0.2:7000");
}

TEST(Config, ChatTemplateByFileAndEnvironment) {
  EXPECT_EQ(parse_good({}).chat_template_path, "");
  const std::string file = config_file("template.toml", "chat-template = \"a.jinja\"\n");
  EXPECT_EQ(parse_good({"--config", file}).chat_template_path, "a.jinja");
  Environment environment;
  environment.set("KVCRUSH_CHAT_TEMPLATE", "b.jinja");
  EXPECT_EQ(parse_good({"--config", file}).chat_template_path, "b.jinja");
}

TEST(Config, EveryFieldCanBeSet) {
  const ServerConfig config = parse_good({"--model-name",
                                          "m",
                                          "--chat-template",
                                          "chat.jinja",
                                          "--listen",
                                          "[::1]:0",
                                          "--http-listen",
                                          "off",
                                          "--device",
                                          "cuda:1",
                                          "--kv-memory",
                                          "1536 MiB",
                                          "--kv-dtype",
                                          "bf16",
                                          "--max-batch-tokens",
                                          "64",
                                          "--max-context",
                                          "512",
                                          "--drain-timeout",
                                          "1.5",
                                          "--stalled-client-timeout",
                                          "0",
                                          "--log-level",
                                          "debug",
                                          "--log-format",
                                          "json",
                                          "--max-message-bytes",
                                          "2MiB",
                                          "--port-file",
                                          "p.json"});
  EXPECT_EQ(config.model_path, "some.gguf");
  EXPECT_EQ(config.model_name, "m");
  EXPECT_EQ(config.chat_template_path, "chat.jinja");
  EXPECT_EQ(config.http_listen, "");
  EXPECT_EQ(config.engine.device, "cuda:1");
  EXPECT_EQ(config.engine.kv_memory_bytes, 1536ull << 20);
  EXPECT_EQ(config.engine.kv_dtype, "bf16");
  EXPECT_EQ(config.engine.max_context_tokens, 512);
  EXPECT_EQ(config.drain_timeout, std::chrono::milliseconds(1500));
  EXPECT_EQ(config.stalled_client_timeout.count(), 0);
  EXPECT_EQ(config.log.format, LogFormat::kJson);
  EXPECT_EQ(config.log.level, "debug");
  EXPECT_EQ(config.max_message_bytes, 2 << 20);
  EXPECT_EQ(config.port_file, "p.json");
}

TEST(Config, WrongValuesNameTheOption) {
  const std::map<std::string, std::vector<std::string>> cases{
      {"--listen", {"nowhere", ":80", "host:", "host:70000", "host:x"}},
      {"--http-listen", {"here", "a b:1"}},
      {"--device", {"gpu", "cuda:", "cuda:x"}},
      {"--kv-memory", {"0", "-1", "lots", "5 parsecs", ""}},
      {"--kv-dtype", {"f64", "int2"}},
      {"--max-batch-tokens", {"0", "x", "-3"}},
      {"--max-running", {"0"}},
      {"--max-context", {"1", "-1"}},
      {"--default-max-tokens", {"0"}},
      {"--default-policy", {"magic", "7"}},
      {"--default-preset", {"best"}},
      {"--default-target-compression", {"3", "x"}},
      {"--default-layer-budgets", {"funnel"}},
      {"--default-granularity", {"page"}},
      {"--default-signature-heads", {"all"}},
      {"--default-value-norm", {"maybe"}},
      {"--default-budget", {"0", "1.5", "0.0", "36", "nan", "-4", "", "0.5x"}},  // 36: sinks and window alone
      {"--default-anchor", {"median"}},
      {"--default-window-tokens", {"0", "257"}},
      {"--default-pool-kernel-tokens", {"4"}},
      {"--default-representative-share", {"1.1", "nan"}},
      {"--drain-timeout", {"-1", "soon"}},
      {"--log-level", {"loud"}},
      {"--log-format", {"xml"}},
      {"--max-message-bytes", {"1", "2GiB"}},
  };
  for (const auto& [option, values] : cases) {
    for (const std::string& value : values) expect_mentions(parse_bad({option + "=" + value}), {option});
  }
}

TEST(Config, UnknownNamesStopTheStart) {
  expect_mentions(parse_bad({"--kv-memroy", "1GiB"}), {"--kv-memroy"});
  expect_mentions(parse_bad({"--config", config_file("unknown.toml", "kv-memroy = \"1GiB\"\n")}),
                  {"kv-memroy"});
  expect_mentions(parse_bad({"--config", config_file("section.toml", "[engine]\nthreads = 1\n")}),
                  {"engine", "no sections"});
  expect_mentions(parse_bad({"--config", TempDir() + "no_such_file.toml"}), {"no_such_file.toml"});
}

TEST(Config, WrongValuesInFileAndEnvironmentNameTheOption) {
  expect_mentions(parse_bad({"--config", config_file("bad.toml", "max-running = 0\n")}), {"--max-running"});
  Environment environment;
  environment.set("KVCRUSH_MAX_WAITING", "none");
  expect_mentions(parse_bad({}), {"--max-waiting"});
}

TEST(Config, ModelIsRequired) {
  const ConfigOutcome outcome = parse_config({});
  EXPECT_EQ(outcome.exit_code, 2);
  expect_mentions(outcome.message, {"--model"});
}

TEST(Config, SameAddressTwiceIsRefused) {
  expect_mentions(parse_bad({"--listen", "127.0.0.1:7", "--http-listen", "127.0.0.1:7"}), {"--http-listen"});
  parse_good({"--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"});
}

TEST(Config, HelpExplainsEveryOptionWithUnitAndDefault) {
  const ConfigOutcome outcome = parse_config({"--help"});
  EXPECT_EQ(outcome.exit_code, 0);
  expect_mentions(outcome.message, {"--model", "--listen", "127.0.0.1:50051", "--http-listen", "--kv-memory",
                                    "auto", "--drain-timeout", "Seconds", "--default-budget", "0.25",
                                    "--max-batch-tokens", "512", "KVCRUSH_MAX_RUNNING", "--default-anchor",
                                    "mean", "--stalled-client-timeout", "--max-message-bytes", "16MiB"});
  EXPECT_EQ(parse_config({"--version"}).exit_code, 0);
}

TEST(Bytes, SuffixesAreReadAndShown) {
  EXPECT_EQ(*parse_bytes("--x", "1024"), 1024u);
  EXPECT_EQ(*parse_bytes("--x", "2KiB"), 2048u);
  EXPECT_EQ(*parse_bytes("--x", "2 KB"), 2000u);
  EXPECT_EQ(*parse_bytes("--x", "3GiB"), 3ull << 30);
  for (const char* bad : {"", "GiB", "1.5GiB", "-1", "99999999999999999999", "20000000TiB"}) {
    EXPECT_FALSE(parse_bytes("--x", bad).ok()) << bad;
  }
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(1536ull << 20), "1.5 GiB");
  EXPECT_GT(resident_memory_bytes(), 1u << 20);
  EXPECT_GT(available_memory_bytes(), 1u << 20);
}

TEST(Config, AutomaticKvMemoryIsAQuarterAtMostFourGib) {
  EXPECT_EQ(automatic_kv_memory_bytes(8ull << 30), 2ull << 30);
  EXPECT_EQ(automatic_kv_memory_bytes(64ull << 30), 4ull << 30);
  EXPECT_EQ(automatic_kv_memory_bytes(0), 1ull << 30);
}

}  // namespace
}  // namespace kvcrush
