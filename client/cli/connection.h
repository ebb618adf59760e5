// How every command reaches the server, and how it ends.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>

#include "client/kvcrush_client.h"

namespace kvcrush::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitRpcError = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInterrupted = 130;  // 128 + SIGINT, as shells report it

struct ServerOptions {
  std::string target = "127.0.0.1:50051";
  std::optional<double> timeout_s;
  bool tls = false;  // any of the TLS options below implies it
  client::TlsFiles tls_files;
  std::string tls_server_name;
  // The token itself is never an option: command lines are seen by every user of the machine.
  std::string token_file;  // empty: the variable KVCRUSH_TOKEN, where it is set
  std::string tenant;
  std::string traceparent;
  int retries = 0;

  bool encrypted() const {
    return tls || !tls_server_name.empty() || !tls_files.ca.empty() || !tls_files.certificate.empty() ||
           !tls_files.key.empty();
  }
};

// What main() runs once the command line is parsed; returns the exit code.
using Command = std::function<int()>;

void add_server_options(CLI::App& app, ServerOptions& options);

// Reads the files that the options name. INVALID_ARGUMENT: one of them does not serve.
client::Result<client::ClientOptions> client_options(const ServerOptions& options);
// Warns on stderr where a token goes to another machine unencrypted.
client::Result<client::Client> connect(const ServerOptions& options, const std::stop_token& stop = {},
                                       bool own_connection = false);

// Prints "kvcrush: CODE_NAME: message" to stderr and returns the exit code: interrupted when `stop` was
// requested.
int fail(const client::Status& status, const std::stop_token& stop = {});
int fail_usage(const std::string& message);

}  // namespace kvcrush::cli
