// Who the client is and whom it trusts: TLS files and the bearer token.
#pragma once

#include <memory>
#include <string>

#include "client/status.h"

namespace grpc {
class ChannelCredentials;
}

namespace kvcrush::client {

// PEM files; an empty path leaves the part out.
struct TlsFiles {
  std::string ca;           // certificates that sign the server's; empty: the system's
  std::string certificate;  // the client's own, for servers that want one (mTLS); with its chain
  std::string key;          // its private key
};

// INVALID_ARGUMENT: a file cannot be read or holds no PEM block, or certificate and key are not both given.
Result<std::shared_ptr<grpc::ChannelCredentials>> tls_credentials(const TlsFiles& files);

// The file's text without the white space around it. INVALID_ARGUMENT: it cannot be read or holds no token.
Result<std::string> read_token_file(const std::string& path);

}  // namespace kvcrush::client
