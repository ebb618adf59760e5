#include "client/cli/connection.h"

#include <iostream>

namespace kvcrush::cli {

void add_server_options(CLI::App& app, ServerOptions& options) {
  app.add_option("--server", options.target, "Server address, HOST:PORT")
      ->envname("KVCRUSH_SERVER")
      ->capture_default_str();
  app.add_option("--timeout", options.timeout_s, "Seconds until a call is given up (default: none)")
      ->check(CLI::Range(0.001, 1e6));
}

client::Result<client::Client> connect(const ServerOptions& options, const std::stop_token& stop) {
  client::ClientOptions client_options;
  if (options.timeout_s) {
    const auto timeout =
        std::chrono::ceil<std::chrono::milliseconds>(std::chrono::duration<double>(*options.timeout_s));
    client_options.call_timeout = timeout;
    client_options.connect_timeout = std::min(client_options.connect_timeout, timeout);
  }
  return client::Client::connect(options.target, client_options, stop);
}

int fail(const client::Status& status, const std::stop_token& stop) {
  const bool interrupted = stop.stop_requested() && status.code == client::Code::kCancelled;
  std::cerr << "kvcrush: " << (interrupted ? "CANCELLED: interrupted" : status.to_string()) << '\n';
  return interrupted ? kExitInterrupted : kExitRpcError;
}

int fail_usage(const std::string& message) {
  std::cerr << "kvcrush: " << message << '\n';
  return kExitUsage;
}

}  // namespace kvcrush::cli
