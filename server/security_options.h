// Who may connect and call, as the options say it.
#pragma once

#include <string>

#include "engine/core/status.h"

namespace kvcrush {

struct SecurityOptions {
  std::string tls_cert;       // PEM: the server's certificate, then its intermediates; empty: plaintext
  std::string tls_key;        // PEM
  std::string tls_client_ca;  // PEM; empty: clients need no certificate
  std::string auth_tokens;    // JSON; empty: whoever can connect may call
  bool allow_plaintext = false;
  bool reflection = true;
  bool log_prompts = false;

  bool tls() const { return !tls_cert.empty(); }
  bool mutual_tls() const { return !tls_client_ca.empty(); }
  bool tokens() const { return !auth_tokens.empty(); }
};

// True for "localhost:1", "127.0.0.9:1", "[::1]:1". Other names are not looked up.
bool is_loopback(const std::string& address);

// Options that need one another, and the plaintext rule. Reads no file.
Status check_security(const SecurityOptions& options, const std::string& listen);

// What a reader of the log must know: a line on how the port is guarded, and a warning for each risk taken.
void log_security(const SecurityOptions& options, const std::string& listen);

}  // namespace kvcrush
