#include "server/server_security.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/impl/server_builder_option.h>

#include <chrono>
#include <utility>
#include <vector>

#include "server/logging.h"

namespace kvcrush {
namespace {

using std::chrono::system_clock;

constexpr std::chrono::milliseconds kBetweenLooks{500};
constexpr std::chrono::hours kExpiresSoon{7 * 24};
// Of TLS and HTTP/2; gRPC's own two minutes let idle connections pile up.
constexpr int kHandshakeTimeoutMs = 20'000;

// Linking gRPC's reflection turns it on for every server of the process.
class WithoutReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    const std::string name = grpc::reflection::ProtoServerReflectionPlugin().name();
    std::erase_if(*plugins, [&name](const auto& plugin) { return plugin->name() == name; });
  }
};

}  // namespace

ServerSecurity::ServerSecurity(const SecurityOptions& options, prometheus::Registry& registry)
    : options_(options),
      metrics_(registry),
      tls_(
          tls_files(options),
          [files = tls_files(options)](const std::vector<std::string>& contents) {
            return check_tls_identity(files, contents, system_clock::now());
          },
          [this](const Status& status, const TlsIdentity& in_force) {
            certificate_reloaded(status, in_force);
          }),
      authenticator_(options, metrics_) {}

Status ServerSecurity::load() {
  if (options_.tls()) {
    KVCRUSH_RETURN_IF_ERROR(tls_.load());
    metrics_.show_tls();
    certificate_loaded("certificate_loaded", *tls_.current());
  }
  KVCRUSH_RETURN_IF_ERROR(authenticator_.load());
  if (options_.tls() || options_.tokens())
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  return {};
}

void ServerSecurity::guard(grpc::ServerBuilder& builder, const std::string& address, int* port) {
  credentials_ = port_credentials(options_.tls() ? &tls_ : nullptr, authenticator_);
  builder.AddListeningPort(address, credentials_, port);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  if (!options_.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
}

void ServerSecurity::certificate_loaded(const char* event, const TlsIdentity& identity) {
  metrics_.certificate(identity.expires_at);
  const auto left = identity.expires_at - system_clock::now();
  LogLine(left < kExpiresSoon ? spdlog::level::warn : spdlog::level::info, event)
      .with("subject", identity.subject)
      .with("serial", identity.serial)
      .with("expires_in_h", std::chrono::duration_cast<std::chrono::hours>(left).count());
}

void ServerSecurity::certificate_reloaded(const Status& status, const TlsIdentity& in_force) {
  metrics_.tls_reloaded(status.ok());
  if (status.ok()) return certificate_loaded("certificate_reloaded", in_force);
  LogLine(spdlog::level::err, "certificate_reload_failed")
      .with("reason", status.message())
      .with("serial_in_force", in_force.serial);
}

void ServerSecurity::run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    wake_.wait_for(lock, stop, kBetweenLooks, [] { return false; });
    if (options_.tls()) tls_.poll();
    authenticator_.poll();
  }
}

}  // namespace kvcrush
