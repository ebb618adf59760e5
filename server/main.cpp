#include <signal.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "engine/loader/model_file.h"
#include "server/config.h"
#include "server/logging.h"
#include "server/model_loading.h"
#include "server/server.h"

namespace kvcrush {
namespace {

constexpr int kExitFailure = 1;

// With nothing waited for or destroyed but the log: another thread may hang for ever, in an engine step or in
// a write to a log that nobody reads.
[[noreturn]] void leave_at_once(int exit_code) {
  static_cast<void>(shutdown_logging());
  std::_Exit(exit_code);
}

// Waits for SIGTERM and SIGINT on a thread of its own. The first asks for a drain; while the model loads
// there is nothing to drain, so it ends the process. The second ends the process in any case.
class SignalWatch {
 public:
  SignalWatch() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGTERM);
    sigaddset(&signals_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);  // before any other thread starts: all of them inherit it
    std::thread([this] { watch(); }).detach();
  }

  void set_serving() { serving_ = true; }
  void wait_for_stop() { stop_.get_future().wait(); }

 private:
  [[noreturn]] void watch() {
    int signal = 0;
    sigwait(&signals_, &signal);
    LogLine(spdlog::level::info, "signal").with("number", signal);
    if (!serving_) leave_at_once(0);
    stop_.set_value();
    sigwait(&signals_, &signal);
    LogLine(spdlog::level::warn, "second_signal").with("number", signal);
    leave_at_once(128 + signal);
  }

  sigset_t signals_{};
  std::atomic<bool> serving_{false};
  std::promise<void> stop_;
};

// Returning from main would wait for the thread that writes the log.
int end(int exit_code) {
  if (!shutdown_logging()) std::_Exit(exit_code);
  return exit_code;
}

int fail(const std::string& what) {
  LogLine(spdlog::level::err, "failed").with("reason", what);
  return end(kExitFailure);
}

// A log that cannot be written must not end the server: stderr may be a pipe whose reader has gone, or a file
// at its size limit. The write fails instead, and the line is lost.
void survive_failed_writes() {
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  for (const int signal : {SIGPIPE, SIGXFSZ}) sigaction(signal, &ignore, nullptr);
}

// Quantised arithmetic rounds keys and values to bfloat16 where it meets them, so more bits in the cache
// would be bytes without use. A device that is unknown and a model that cannot be read are refused later.
std::string automatic_kv_dtype(const ServerConfig& config) {
  const Result<std::string> device = resolve_device(config.engine.device);
  if (device.ok() && *device != "cpu") return "f16";
  if (config.engine.weight_dtype == "f32") return "f32";
  const Result<ModelFile> model = load_model_file(config.model_path);
  return model.ok() && keeps_weights_quantized(*model) ? "bf16" : "f32";
}

int run(const std::vector<std::string>& args) {
  const ConfigOutcome outcome = parse_config(args, automatic_kv_dtype);
  if (!outcome.config) {
    std::fputs(outcome.message.c_str(), outcome.exit_code == 0 ? stdout : stderr);
    return outcome.exit_code;
  }
  survive_failed_writes();
  // Never destroyed: its thread may run until the process ends.
  auto& signals = *new SignalWatch;
  init_logging(outcome.config->log);
  ServerConfig config = *outcome.config;
  const Result<std::string> device = resolve_device(config.engine.device);
  if (!device.ok()) return fail(device.status().message());
  config.engine.device = *device;
  Server server(config);
  if (const Status status = server.listen(); !status.ok()) return fail(status.message());
  if (const Status status = server.load(load_model); !status.ok()) return fail(status.message());
  signals.set_serving();
  signals.wait_for_stop();
  if (!server.drain()) leave_at_once(kExitFailure);
  return end(0);
}

}  // namespace
}  // namespace kvcrush

int main(int argc, char** argv) {
  try {
    return kvcrush::run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kvcrush-server: %s\n", error.what());
    return 1;
  }
}
