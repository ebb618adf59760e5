#include <gtest/gtest.h>

#include "client/cli/connection.h"
#include "client/kvcrush_client.h"
#include "tests/unit/client/fake_server.h"
#include "tests/unit/client/test_certificates.h"

namespace kvcrush::client::test {
namespace {

using namespace std::chrono_literals;

constexpr const char* kTraceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

const TestCertificates& certificates() {
  static const TestCertificates made;
  return made;
}

std::shared_ptr<grpc::ServerCredentials> server_credentials(bool wants_client_certificate) {
  grpc::SslServerCredentialsOptions options(wants_client_certificate
                                                ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                                : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  options.pem_root_certs = certificates().read("ca.pem");
  options.pem_key_cert_pairs.push_back(
      {certificates().read("server.key"), certificates().read("server.pem")});
  return grpc::SslServerCredentials(options);
}

// Through the command's options, so that they are tested along.
Result<Client> connect(const FakeServer& fake, cli::ServerOptions options) {
  options.target = fake.target();
  if (!options.timeout_s) options.timeout_s = 10;
  return cli::connect(options);
}

Status call(Result<Client> client) {
  if (!client.ok()) return client.status();
  return client->generate({}, [](const v1::GenerateResponse&) { return true; });
}

cli::ServerOptions with_ca() {
  cli::ServerOptions options;
  options.tls_files.ca = certificates().path("ca.pem");
  return options;
}

TEST(TlsTest, TrustsTheCaThatItIsGivenAndNoOther) {
  const FakeServer fake(server_credentials(false));
  EXPECT_TRUE(call(connect(fake, with_ca())).ok());
  auto options = with_ca();
  options.timeout_s = 0.5;
  options.tls_files.ca = certificates().path("other.pem");
  const auto refused = call(connect(fake, options));
  EXPECT_EQ(refused.code, Code::kUnavailable);
  EXPECT_NE(refused.message.find("certificate verify failed"), std::string::npos) << refused.message;
  options.tls_files.ca.clear();
  options.tls = true;
  EXPECT_EQ(call(connect(fake, options)).code, Code::kUnavailable) << "no CA of the system signs it";
}

TEST(TlsTest, WithoutTlsAnEncryptedServerIsOutOfReach) {
  const FakeServer fake(server_credentials(false));
  cli::ServerOptions options;
  options.timeout_s = 0.5;
  EXPECT_EQ(call(connect(fake, options)).code, Code::kUnavailable);
}

TEST(TlsTest, TheNameInTheCertificateMustBeTheServers) {
  const FakeServer fake(server_credentials(false));
  auto options = with_ca();
  options.tls_server_name = "kvcrush.test";
  EXPECT_TRUE(call(connect(fake, options)).ok());
  options.tls_server_name = "elsewhere.test";
  options.timeout_s = 0.5;
  EXPECT_EQ(call(connect(fake, options)).code, Code::kUnavailable);
}

TEST(TlsTest, ShowsItsOwnCertificateToAServerThatAsks) {
  const FakeServer fake(server_credentials(true));
  auto options = with_ca();
  options.timeout_s = 0.5;
  EXPECT_EQ(call(connect(fake, options)).code, Code::kUnavailable) << "no certificate, no connection";
  options.timeout_s = 10;
  options.tls_files.certificate = certificates().path("client.pem");
  options.tls_files.key = certificates().path("client.key");
  const auto status = call(connect(fake, options));
  EXPECT_TRUE(status.ok()) << status.to_string();
}

TEST(TlsFilesTest, SaysWhatIsWrongWithThem) {
  const auto message = [](const TlsFiles& files) {
    const auto status = tls_credentials(files).status();
    EXPECT_EQ(status.code, Code::kInvalidArgument);
    return status.message;
  };
  EXPECT_NE(message({.ca = "/nonexistent/ca.pem", .certificate = {}, .key = {}}).find("/nonexistent/ca.pem"),
            std::string::npos);
  EXPECT_NE(message({.ca = {}, .certificate = certificates().path("client.pem"), .key = {}}).find("together"),
            std::string::npos);
  EXPECT_NE(message({.ca = certificates().path("server.ext"), .certificate = {}, .key = {}}).find("PEM"),
            std::string::npos);
  EXPECT_FALSE(tls_credentials({.ca = ::testing::TempDir(), .certificate = {}, .key = {}}).ok());
}

class HeadersTest : public ::testing::Test {
 protected:
  HeadersTest() { unsetenv("KVCRUSH_TOKEN"); }
  ~HeadersTest() override { unsetenv("KVCRUSH_TOKEN"); }

  std::string write(const std::string& text) {
    const std::string path = ::testing::TempDir() + "kvcrush_token";
    std::ofstream(path) << text;
    return path;
  }

  FakeServer fake_;
  cli::ServerOptions options_;
};

TEST_F(HeadersTest, TokenTenantAndTraceAreSentWithEveryCall) {
  options_.token_file = write("  secret-1.2_3\n");
  options_.tenant = "gold";
  options_.traceparent = kTraceparent;
  auto client = connect(fake_, options_);
  ASSERT_TRUE(client.ok()) << client.status().to_string();
  ASSERT_TRUE(client->generate_once({}).ok());
  for (int round = 0; round < 2; ++round) {
    const auto metadata = fake_.service.metadata();
    EXPECT_EQ(metadata.at("authorization"), "Bearer secret-1.2_3");
    EXPECT_EQ(metadata.at("x-tenant"), "gold");
    EXPECT_EQ(metadata.at("traceparent"), kTraceparent);
    ASSERT_TRUE(client->generate({}, [](const v1::GenerateResponse&) { return true; }).ok());
  }
}

TEST_F(HeadersTest, NothingIsSentThatWasNotGiven) {
  ASSERT_TRUE(call(connect(fake_, options_)).ok());
  const auto metadata = fake_.service.metadata();
  for (const char* key : {"authorization", "x-tenant", "traceparent"})
    EXPECT_EQ(metadata.count(key), 0U) << key;
}

TEST_F(HeadersTest, TheVariableHoldsTheTokenUnlessAFileDoes) {
  setenv("KVCRUSH_TOKEN", "from-variable", 1);
  ASSERT_TRUE(call(connect(fake_, options_)).ok());
  EXPECT_EQ(fake_.service.metadata().at("authorization"), "Bearer from-variable");
  options_.token_file = write("from-file");
  ASSERT_TRUE(call(connect(fake_, options_)).ok());
  EXPECT_EQ(fake_.service.metadata().at("authorization"), "Bearer from-file");
}

TEST_F(HeadersTest, WhatNoHeaderCanHoldIsRefusedAndATokenNotShown) {
  options_.token_file = write("two words");
  const auto bad = connect(fake_, options_).status();
  EXPECT_EQ(bad.code, Code::kInvalidArgument);
  EXPECT_NE(bad.message.find(options_.token_file), std::string::npos) << bad.message;
  EXPECT_EQ(bad.message.find("two words"), std::string::npos) << bad.message;
  options_.token_file = write(" \n");
  EXPECT_EQ(connect(fake_, options_).status().code, Code::kInvalidArgument);
  options_.token_file = "/nonexistent/token";
  EXPECT_NE(connect(fake_, options_).status().message.find("/nonexistent/token"), std::string::npos);
  options_.token_file.clear();
  setenv("KVCRUSH_TOKEN", "line\nbreak", 1);
  EXPECT_EQ(connect(fake_, options_).status().code, Code::kInvalidArgument);
}

TEST(CheckHeaders, TenantsAndTracesThatGrpcWouldEndTheProcessOver) {
  for (const std::string tenant : {"a b", "caf\xC3\xA9", "line\n"})
    EXPECT_EQ(check_headers({.tenant = tenant}).code, Code::kInvalidArgument) << tenant;
  EXPECT_FALSE(check_headers({.tenant = std::string(129, 'x')}).ok());
  EXPECT_TRUE(check_headers({.tenant = std::string(128, 'x')}).ok());
  EXPECT_TRUE(check_headers({.traceparent = kTraceparent}).ok());
  for (const char* trace : {"1", "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                            "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01"})
    EXPECT_EQ(check_headers({.traceparent = trace}).code, Code::kInvalidArgument) << trace;
}

}  // namespace
}  // namespace kvcrush::client::test
