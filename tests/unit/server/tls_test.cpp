// TLS of a server in this process, over real connections.
#include "tests/unit/server/security_harness.h"

namespace kvcrush::test {
namespace {

using grpc::StatusCode;

// A server with TLS, and clients that come anew with each call.
class Tls : public Security {
 protected:
  void start_tls(const TestCertificate& certificate, const std::string& client_ca = "") {
    install(certificate.cert_pem(), certificate.key_pem());
    ServerConfig config = server_config();
    config.security.tls_cert = cert_path_;
    config.security.tls_key = key_path_;
    if (!client_ca.empty()) {
      config.security.tls_client_ca = ca_path_;
      write_file(ca_path_, client_ca);
    }
    start(config);
  }
  void install(const std::string& cert, const std::string& key) {
    write_file(cert_path_, cert);
    write_file(key_path_, key);
  }

  std::unique_ptr<v1::Inference::Stub> stub_trusting(const TestCertificate& root,
                                                     const TestCertificate* own = nullptr) const {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = root.cert_pem();
    if (own != nullptr) {
      options.pem_cert_chain = own->cert_pem();
      options.pem_private_key = own->key_pem();
    }
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return v1::Inference::NewStub(grpc::CreateCustomChannel(
        "127.0.0.1:" + std::to_string(server_->grpc_port()), grpc::SslCredentials(options), arguments));
  }
  StatusCode answer_to(const TestCertificate& root, const TestCertificate* own = nullptr) const {
    const auto stub = stub_trusting(root, own);
    grpc::ClientContext context;
    patient(context);
    v1::GetModelInfoResponse response;
    return stub->GetModelInfo(&context, {}, &response).error_code();
  }

  const std::string cert_path_ = ::testing::TempDir() + "kvcrush_cert.pem";
  const std::string key_path_ = ::testing::TempDir() + "kvcrush_key.pem";
  const std::string ca_path_ = ::testing::TempDir() + "kvcrush_ca.pem";
};

TEST_F(Tls, TheClientMustTrustTheCertificate) {
  const TestCertificate own({});
  start_tls(own);
  EXPECT_EQ(answer_to(own), StatusCode::OK);
  EXPECT_EQ(answer_to(TestCertificate({})), StatusCode::UNAVAILABLE);
  grpc::ClientContext plaintext;
  EXPECT_EQ(info(plaintext).error_code(), StatusCode::UNAVAILABLE);
}

TEST_F(Tls, MutualTlsWantsACertificateOfTheAuthority) {
  const TestCertificate own({});
  const TestCertificate authority({.name = "clients"});
  const TestCertificate client({.name = "client"}, &authority);
  const TestCertificate expired({.name = "client", .valid_until = std::chrono::seconds(-60)}, &authority);
  const TestCertificate stranger({.name = "client"});
  start_tls(own, authority.cert_pem());
  EXPECT_EQ(answer_to(own, &client), StatusCode::OK);
  EXPECT_EQ(answer_to(own), StatusCode::UNAVAILABLE);
  EXPECT_EQ(answer_to(own, &expired), StatusCode::UNAVAILABLE);
  EXPECT_EQ(answer_to(own, &stranger), StatusCode::UNAVAILABLE);
  EXPECT_EQ(answer_to(own, &own), StatusCode::UNAVAILABLE);
  // The authority is reloaded as the certificate is.
  const TestCertificate next({.name = "clients"});
  const TestCertificate next_client({.name = "client"}, &next);
  write_file(ca_path_, next.cert_pem());
  EXPECT_TRUE(eventually([&] { return answer_to(own, &next_client) == StatusCode::OK; }));
  EXPECT_EQ(answer_to(own, &client), StatusCode::UNAVAILABLE);
}

TEST_F(Tls, CertificatesAreReplacedUnderRunningStreams) {
  const TestCertificate first({.serial = 1});
  const TestCertificate second({.serial = 2});
  start_tls(first);
  const auto old_stub = stub_trusting(first);
  grpc::ClientContext context;
  patient(context);
  const auto reader = old_stub->Generate(&context, request("r"));
  ASSERT_TRUE(backend_->wait_live("r"));
  install(second.cert_pem(), first.key_pem());
  EXPECT_TRUE(eventually([this] { return shows("kvcrush_tls_reloads_total{result=\"failed\"} 1"); }));
  EXPECT_EQ(answer_to(first), StatusCode::OK);
  install(second.cert_pem(), second.key_pem());
  EXPECT_TRUE(eventually([this] { return shows("kvcrush_tls_reloads_total{result=\"ok\"} 1"); }));
  EXPECT_EQ(answer_to(second), StatusCode::OK);
  EXPECT_EQ(answer_to(first), StatusCode::UNAVAILABLE);
  backend_->text("r", "still here");
  static_cast<void>(backend_->finish("r", FinishReason::kStop, std::nullopt));
  const StreamResult result = read_all(*reader);
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text.at(0), "still here");
}

TEST_F(Tls, TokensAreCheckedOverTlsToo) {
  const TestCertificate own({});
  write_tokens(entry("a"));
  install(own.cert_pem(), own.key_pem());
  ServerConfig config = server_config();
  config.security.tls_cert = cert_path_;
  config.security.tls_key = key_path_;
  config.security.auth_tokens = path_;
  start(config);
  EXPECT_EQ(answer_to(own), StatusCode::UNAUTHENTICATED);
  const auto stub = stub_trusting(own);
  v1::GetModelInfoResponse response;
  EXPECT_TRUE(stub->GetModelInfo(as("a").get(), {}, &response).ok());
}

TEST_F(Tls, AnExpiredCertificateStopsTheStart) {
  const TestCertificate expired({.valid_until = std::chrono::seconds(-1)});
  install(expired.cert_pem(), expired.key_pem());
  ServerConfig config = server_config();
  config.security.tls_cert = cert_path_;
  config.security.tls_key = key_path_;
  const Status status = Server(config).listen();
  EXPECT_NE(status.message().find("--tls-cert is \"" + cert_path_ + "\": the certificate expired"),
            std::string::npos)
      << status.message();
}

}  // namespace
}  // namespace kvcrush::test
