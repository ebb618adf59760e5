// The server's certificate with its key, and whose client certificates it accepts: checked, as PEM.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "engine/core/status.h"
#include "server/security_options.h"
#include "server/small_file.h"

namespace kvcrush {

struct TlsIdentity {
  std::string cert_pem;  // the server's own first, then its intermediates
  std::string key_pem;
  std::string client_ca_pem;  // empty: clients are not asked for a certificate
  std::string subject;
  std::string serial;  // as `openssl x509 -serial` shows it
  std::chrono::system_clock::time_point expires_at;
};

// In the order that check_tls_identity() wants their contents.
std::vector<NamedFile> tls_files(const SecurityOptions& options);

// INVALID_ARGUMENT naming option and file: not PEM, certificate and key that do not belong together, a
// certificate that is not valid at `now`, a key that TLS would refuse.
Result<TlsIdentity> check_tls_identity(const std::vector<NamedFile>& files,
                                       const std::vector<std::string>& contents,
                                       std::chrono::system_clock::time_point now);

}  // namespace kvcrush
