// How the gRPC port is guarded, in one object: certificates, tokens, and the thread that reads their files
// again.
#pragma once

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>

#include "server/authenticator.h"
#include "server/callers.h"
#include "server/port_credentials.h"
#include "server/security_metrics.h"
#include "server/security_options.h"
#include "server/tls_identity.h"

namespace kvcrush {

// Outlives the gRPC server that it guards.
class ServerSecurity {
 public:
  ServerSecurity(const SecurityOptions& options, prometheus::Registry& registry);
  ServerSecurity(const ServerSecurity&) = delete;
  ServerSecurity& operator=(const ServerSecurity&) = delete;

  // Reads and checks the files, then keeps looking for changes. INVALID_ARGUMENT naming option and file.
  Status load();
  // After load().
  void guard(grpc::ServerBuilder& builder, const std::string& address, int* port);

  Callers& callers() { return callers_; }

 private:
  void certificate_loaded(const char* event, const TlsIdentity& identity);
  void certificate_reloaded(const Status& status, const TlsIdentity& in_force);
  void run(const std::stop_token& stop);

  const SecurityOptions options_;
  SecurityMetrics metrics_;
  Reloading<TlsIdentity> tls_;
  Authenticator authenticator_;
  Callers callers_{authenticator_, metrics_};
  std::shared_ptr<grpc::ServerCredentials> credentials_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::jthread thread_;  // last: stops before the rest goes
};

}  // namespace kvcrush
