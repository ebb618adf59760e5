#include "client/credentials.h"

#include <grpcpp/security/credentials.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "client/call_headers.h"

namespace kvcrush::client {
namespace {

Status invalid(const std::string& message) {
  return {Code::kInvalidArgument, message};
}

Result<std::string> read(const std::string& path, const char* what) {
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(path, ignored);  // opening one succeeds
  std::ifstream in(path, std::ios::binary);
  if (in && !folder) return std::string{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  const std::string reason = folder ? "it is a folder" : std::strerror(errno);
  return invalid(std::string("cannot read the ") + what + " '" + path + "': " + reason);
}

// gRPC says of a broken file no more than that no connection comes about.
Result<std::string> read_pem(const std::string& path, const char* what) {
  if (path.empty()) return std::string();
  auto text = read(path, what);
  if (text.ok() && text->find("-----BEGIN ") == std::string::npos)
    return invalid(std::string("the ") + what + " '" + path + "' holds no PEM block (-----BEGIN ...)");
  return text;
}

}  // namespace

Result<std::shared_ptr<grpc::ChannelCredentials>> tls_credentials(const TlsFiles& files) {
  if (files.certificate.empty() != files.key.empty())
    return invalid("a client certificate and its private key are needed together; given is only the " +
                   std::string(files.key.empty() ? "certificate" : "key"));
  auto ca = read_pem(files.ca, "CA file");
  if (!ca.ok()) return ca.status();
  auto certificate = read_pem(files.certificate, "client certificate");
  if (!certificate.ok()) return certificate.status();
  auto key = read_pem(files.key, "private key");
  if (!key.ok()) return key.status();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = std::move(*ca);
  options.pem_cert_chain = std::move(*certificate);
  options.pem_private_key = std::move(*key);
  return grpc::SslCredentials(options);
}

Result<std::string> read_token_file(const std::string& path) {
  const auto text = read(path, "token file");
  if (!text.ok()) return text.status();
  constexpr const char* kWhiteSpace = " \t\r\n";
  const auto first = text->find_first_not_of(kWhiteSpace);
  if (first == std::string::npos) return invalid("the token file '" + path + "' is empty");
  const auto last = text->find_last_not_of(kWhiteSpace);
  std::string token = text->substr(first, last - first + 1);
  const auto checked = check_headers({.token = token});
  if (!checked.ok()) return invalid("token file '" + path + "': " + checked.message);
  return token;
}

}  // namespace kvcrush::client
