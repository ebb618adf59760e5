#include "client/cli/connection.h"

#include <cstdlib>
#include <iostream>

namespace kvcrush::cli {
namespace {

constexpr const char* kGroup = "Connection";
constexpr int kMaxRetries = 100;

// Whether nobody else can read along: this machine's own addresses, and sockets in the file system.
bool stays_on_this_machine(const std::string& target) {
  for (const char* prefix : {"127.", "localhost:", "[::1]:", "unix:", "ipv4:127.", "ipv6:[::1]:"})
    if (target.starts_with(prefix)) return true;
  return false;
}

client::Result<std::string> find_token(const ServerOptions& options) {
  if (!options.token_file.empty()) return client::read_token_file(options.token_file);
  const char* variable = std::getenv("KVCRUSH_TOKEN");
  return std::string(variable == nullptr ? "" : variable);
}

void add_security_options(CLI::App& app, ServerOptions& options) {
  app.add_flag("--tls", options.tls,
               "Encrypt; the server's certificate must be signed by one of the system's CAs")
      ->group(kGroup);
  const auto file = [&](const char* name, std::string& path, const char* help) {
    app.add_option(name, path, help)->type_name("FILE")->group(kGroup);
  };
  file("--tls-ca", options.tls_files.ca, "Encrypt; it must be signed by a certificate in this PEM file");
  file("--tls-cert", options.tls_files.certificate,
       "Encrypt; the client's own certificate in PEM, for servers that ask for one; with --tls-key");
  file("--tls-key", options.tls_files.key, "Private key of --tls-cert in PEM");
  app.add_option("--tls-server-name", options.tls_server_name,
                 "Encrypt; the name that the server's certificate must have (default: the host of --server)")
      ->type_name("NAME")
      ->group(kGroup);
  file("--token-file", options.token_file,
       "File with the bearer token (default: the variable KVCRUSH_TOKEN, where it is set)");
  app.add_option("--tenant", options.tenant, "Tenant on whose account the request goes")
      ->type_name("NAME")
      ->group(kGroup);
}

}  // namespace

void add_server_options(CLI::App& app, ServerOptions& options) {
  app.add_option("--server", options.target, "Server address, HOST:PORT")
      ->envname("KVCRUSH_SERVER")
      ->capture_default_str()
      ->group(kGroup);
  app.add_option("--timeout", options.timeout_s,
                 "Seconds until a call is given up, its retries included (default: none)")
      ->check(CLI::Range(0.001, 1e6))
      ->group(kGroup);
  app.add_option(
         "--retries", options.retries,
         "How often to try again where the server is overloaded or away (RESOURCE_EXHAUSTED, UNAVAILABLE) "
         "and nothing has come yet; waits as the server asks")
      ->check(CLI::Range(0, kMaxRetries))
      ->capture_default_str()
      ->group(kGroup);
  app.add_option("--traceparent", options.traceparent,
                 "W3C trace context to send along: 00-TRACE-PARENT-FLAGS")
      ->type_name("VALUE")
      ->group(kGroup);
  add_security_options(app, options);
}

client::Result<client::ClientOptions> client_options(const ServerOptions& options) {
  client::ClientOptions result;
  if (options.timeout_s) {
    const auto timeout =
        std::chrono::ceil<std::chrono::milliseconds>(std::chrono::duration<double>(*options.timeout_s));
    result.call_timeout = timeout;
    result.connect_timeout = std::min(result.connect_timeout, timeout);
  }
  if (options.encrypted()) {
    auto credentials = client::tls_credentials(options.tls_files);
    if (!credentials.ok()) return credentials.status();
    result.credentials = std::move(*credentials);
    result.tls_server_name = options.tls_server_name;
  }
  auto token = find_token(options);
  if (!token.ok()) return token.status();
  result.headers = {.token = std::move(*token), .tenant = options.tenant, .traceparent = options.traceparent};
  result.retry.max_retries = options.retries;
  return result;
}

client::Result<client::Client> connect(const ServerOptions& options, const std::stop_token& stop,
                                       bool own_connection) {
  auto resolved = client_options(options);
  if (!resolved.ok()) return resolved.status();
  resolved->own_connection = own_connection;
  if (!resolved->headers.token.empty() && !options.encrypted() && !stays_on_this_machine(options.target))
    std::cerr << "kvcrush: warning: the token goes to " << options.target << " unencrypted; see --tls\n";
  return client::Client::connect(options.target, *resolved, stop);
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
