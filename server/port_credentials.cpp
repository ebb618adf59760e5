#include "server/port_credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>

#include <mutex>
#include <string_view>
#include <vector>

namespace kvcrush {
namespace {

// gRPC asks at the beginning of every handshake.
class CertificateSource {
 public:
  explicit CertificateSource(const Reloading<TlsIdentity>* tls) : tls_(tls) {}

  static grpc_ssl_certificate_config_reload_status fetch(void* self,
                                                         grpc_ssl_server_certificate_config** out) {
    return static_cast<CertificateSource*>(self)->next(out);
  }

 private:
  grpc_ssl_certificate_config_reload_status next(grpc_ssl_server_certificate_config** out) {
    const std::shared_ptr<const TlsIdentity> identity = tls_->current();
    std::lock_guard lock(mutex_);
    if (identity == given_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair{identity->key_pem.c_str(), identity->cert_pem.c_str()};
    // gRPC 1.51 wants authorities even where it will not ask for a certificate; it then never looks at them.
    const std::string& authorities =
        identity->client_ca_pem.empty() ? identity->cert_pem : identity->client_ca_pem;
    *out = grpc_ssl_server_certificate_config_create(authorities.c_str(), &pair, 1);
    given_ = identity;
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  const Reloading<TlsIdentity>* tls_;
  std::mutex mutex_;
  std::shared_ptr<const TlsIdentity> given_;  // guarded by mutex_
};

std::string_view view(const grpc_slice& slice) {
  return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(slice)), GRPC_SLICE_LENGTH(slice)};
}

// gRPC's C interface, because the C++ one refuses to check the calls of a plaintext port. Who calls is not
// noted in `context`: gRPC 1.51 has one for all calls of a connection.
void check_call(void* state, grpc_auth_context* /*context*/, const grpc_metadata* metadata,
                std::size_t num_metadata, grpc_process_auth_metadata_done_cb done, void* user_data) {
  auto& authenticator = *static_cast<Authenticator*>(state);
  std::string_view method;
  std::vector<std::string_view> authorization;
  for (std::size_t i = 0; i < num_metadata; ++i) {
    if (view(metadata[i].key) == ":path") method = view(metadata[i].value);
    if (view(metadata[i].key) == kAuthorizationKey) authorization.push_back(view(metadata[i].value));
  }
  const bool refused =
      Authenticator::guards(method) && authenticator.check(*authenticator.tokens(), authorization,
                                                           std::chrono::system_clock::now()) == nullptr;
  done(user_data, nullptr, 0, nullptr, 0, refused ? GRPC_STATUS_UNAUTHENTICATED : GRPC_STATUS_OK,
       refused ? kUnauthenticated : nullptr);
}

// The C++ interface has no TLS credentials that keep a certificate when the next one is broken.
class PortCredentials final : public grpc::ServerCredentials {
 public:
  PortCredentials(const Reloading<TlsIdentity>* tls, Authenticator& authenticator) : certificates_(tls) {
    credentials_ = tls == nullptr ? grpc_insecure_server_credentials_create() : create_tls(*tls);
    if (authenticator.enabled())
      grpc_server_credentials_set_auth_metadata_processor(credentials_,
                                                          {check_call, nullptr, &authenticator});
  }
  ~PortCredentials() override { grpc_server_credentials_release(credentials_); }
  PortCredentials(const PortCredentials&) = delete;
  PortCredentials& operator=(const PortCredentials&) = delete;

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  grpc_server_credentials* create_tls(const Reloading<TlsIdentity>& tls) {
    const auto clients = tls.current()->client_ca_pem.empty()
                             ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                             : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
    return grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(clients, CertificateSource::fetch,
                                                                        &certificates_));
  }

  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  CertificateSource certificates_;
  grpc_server_credentials* credentials_;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> port_credentials(const Reloading<TlsIdentity>* tls,
                                                          Authenticator& authenticator) {
  return std::make_shared<PortCredentials>(tls, authenticator);
}

}  // namespace kvcrush
