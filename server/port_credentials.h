// What gRPC asks about each connection and each call of the port: the certificate in force, and whose token
// it is.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "server/authenticator.h"
#include "server/reloading.h"
#include "server/tls_identity.h"

namespace kvcrush {

// `tls` null: plaintext. All outlive the gRPC server that listens with them, the credentials included.
std::shared_ptr<grpc::ServerCredentials> port_credentials(const Reloading<TlsIdentity>* tls,
                                                          Authenticator& authenticator);

}  // namespace kvcrush
