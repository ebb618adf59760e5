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
};

// What main() runs once the command line is parsed; returns the exit code.
using Command = std::function<int()>;

void add_server_options(CLI::App& app, ServerOptions& options);

client::Result<client::Client> connect(const ServerOptions& options, const std::stop_token& stop = {});

// Prints "kvcrush: CODE_NAME: message" to stderr and returns the exit code: interrupted when `stop` was
// requested.
int fail(const client::Status& status, const std::stop_token& stop = {});
int fail_usage(const std::string& message);

}  // namespace kvcrush::cli
