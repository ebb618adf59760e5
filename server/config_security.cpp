#include <arpa/inet.h>
#include <netinet/in.h>
#include <spdlog/fmt/fmt.h>

#include <array>
#include <string>

#include "server/config_options.h"
#include "server/logging.h"
#include "server/security_options.h"

namespace kvcrush {
namespace {

constexpr std::size_t kV4InV6Offset = 12;  // ::ffff:127.0.0.1
constexpr unsigned kLoopbackNet = 127;

bool is_loopback_host(const std::string& host) {
  if (host == "localhost") return true;
  std::array<unsigned char, 16> bytes{};
  if (inet_pton(AF_INET, host.c_str(), bytes.data()) == 1) return bytes[0] == kLoopbackNet;
  in6_addr v6{};
  if (inet_pton(AF_INET6, host.c_str(), &v6) != 1) return false;
  return IN6_IS_ADDR_LOOPBACK(&v6) ||
         (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[kV4InV6Offset] == kLoopbackNet);
}

void add_flag(CLI::App& app, const char* group, const std::string& name, bool& value,
              const std::string& help) {
  app.add_flag("--" + name, value, help)->group(group)->envname(environment_name(name));
}

Status needs(const char* option, const std::string& value, const char* other) {
  return invalid_argument(
      fmt::format("{} is \"{}\" without {}, allowed: both or neither", option, value, other));
}

}  // namespace

void add_security_options(CLI::App& app, const char* group, SecurityOptions& options) {
  add(app, group, "tls-cert", options.tls_cert,
      "PEM file of the server's certificate and its intermediates; turns on TLS; read again when it changes");
  add(app, group, "tls-key", options.tls_key, "PEM file of the certificate's private key, not encrypted");
  add(app, group, "tls-client-ca", options.tls_client_ca,
      "PEM file of the authorities whose client certificates are accepted; turns on mutual TLS");
  add(app, group, "auth-tokens", options.auth_tokens,
      "JSON file of hashed bearer tokens (docs/operations/security.md); calls need one of them; read again "
      "when it changes");
  add_flag(app, group, "allow-plaintext", options.allow_plaintext,
           "Listen without TLS on an address that others can reach");
  const auto set_reflection = [&options](const std::string& word) { options.reflection = word == "on"; };
  app.add_option_function<std::string>(
         "--reflection", set_reflection,
         "on or off: gRPC server reflection; with --auth-tokens it needs a token")
      ->check(CLI::IsMember({"on", "off"}).description(""))
      ->group(group)
      ->envname(environment_name("reflection"))
      ->default_str("on");
  add_flag(app, group, "log-prompts", options.log_prompts,
           "Log the beginning of each prompt; without it no prompt text is ever logged");
}

bool is_loopback(const std::string& address) {
  std::string host = address.substr(0, address.rfind(':'));
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return is_loopback_host(host);
}

Status check_security(const SecurityOptions& options, const std::string& listen) {
  if (!options.tls_cert.empty() && options.tls_key.empty())
    return needs("--tls-cert", options.tls_cert, "--tls-key");
  if (options.tls_cert.empty() && !options.tls_key.empty())
    return needs("--tls-key", options.tls_key, "--tls-cert");
  if (options.mutual_tls() && !options.tls()) {
    return invalid_argument(
        fmt::format("--tls-client-ca is \"{}\" without --tls-cert, allowed: with --tls-cert and --tls-key",
                    options.tls_client_ca));
  }
  if (!options.tls() && !options.allow_plaintext && !is_loopback(listen)) {
    return invalid_argument(fmt::format(
        "--listen is \"{}\" without TLS, allowed: a loopback address, or --tls-cert and --tls-key, or "
        "--allow-plaintext",
        listen));
  }
  return {};
}

void log_security(const SecurityOptions& options, const std::string& listen) {
  const bool exposed = !options.tls() && !is_loopback(listen);
  LogLine(spdlog::level::info, "security")
      .with("tls", options.tls())
      .with("client_certificates", options.mutual_tls())
      .with("tokens", options.tokens())
      .with("reflection", options.reflection);
  if (exposed) {
    LogLine(spdlog::level::warn, "plaintext")
        .with("listen", listen)
        .with("risk", "prompts and answers can be read and changed on the network");
  }
  if (exposed && options.tokens()) {
    LogLine(spdlog::level::warn, "tokens_over_plaintext")
        .with("listen", listen)
        .with("risk", "whoever reads the network can take the bearer tokens and call with them");
  }
  if (options.log_prompts) {
    LogLine(spdlog::level::warn, "prompts_logged").with("risk", "the log holds what clients send");
  }
}

}  // namespace kvcrush
