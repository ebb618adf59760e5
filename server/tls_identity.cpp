#include "server/tls_identity.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <spdlog/fmt/chrono.h>
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <optional>

namespace kvcrush {
namespace {

using SystemTime = std::chrono::system_clock::time_point;

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Freer<BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Freer<X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;
using SslContext = std::unique_ptr<SSL_CTX, Freer<SSL_CTX_free>>;

// What OpenSSL puts there belongs to nobody else on this thread.
struct ErrorQueue {
  ErrorQueue() { ERR_clear_error(); }
  ~ErrorQueue() { ERR_clear_error(); }
  static std::string last() {
    const char* reason = ERR_reason_error_string(ERR_peek_last_error());
    return reason != nullptr ? reason : "unknown reason";
  }
};

Bio reader(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

std::string text_of(const Bio& bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return size > 0 ? std::string(data, static_cast<std::size_t>(size)) : std::string();
}

// Every certificate of the file; empty when there is none, or one is broken.
std::vector<Certificate> read_certificates(const std::string& pem) {
  std::vector<Certificate> found;
  const Bio bio = reader(pem);
  while (Certificate next{PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)})
    found.push_back(std::move(next));
  const unsigned long end = ERR_peek_last_error();
  const bool whole = ERR_GET_LIB(end) == ERR_LIB_PEM && ERR_GET_REASON(end) == PEM_R_NO_START_LINE;
  ERR_clear_error();
  return whole ? std::move(found) : std::vector<Certificate>();
}

// OpenSSL would ask for a password on the terminal.
int no_password(char*, int, int, void*) {
  return -1;
}

PrivateKey read_key(const std::string& pem) {
  return PrivateKey(PEM_read_bio_PrivateKey(reader(pem).get(), nullptr, no_password, nullptr));
}

// Cut to what the clock of nanoseconds holds, 1677 to 2262: certificates without an end say 9999.
std::optional<SystemTime> to_time(const ASN1_TIME* time) {
  using std::chrono::system_clock;
  std::tm utc{};
  if (ASN1_TIME_to_tm(time, &utc) != 1) return std::nullopt;
  return system_clock::from_time_t(std::clamp(timegm(&utc), system_clock::to_time_t(SystemTime::min()),
                                              system_clock::to_time_t(SystemTime::max())));
}

std::string shown(SystemTime time) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::chrono::system_clock::to_time_t(time)));
}

std::string subject_of(X509* certificate) {
  const Bio bio(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(bio.get(), X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253);
  return text_of(bio);
}

std::string serial_of(const X509* certificate) {
  const Bio bio(BIO_new(BIO_s_mem()));
  i2a_ASN1_INTEGER(bio.get(), X509_get0_serialNumber(certificate));
  return text_of(bio);
}

Status check_validity(const NamedFile& file, const X509* certificate, SystemTime now, TlsIdentity& out) {
  const std::optional<SystemTime> from = to_time(X509_get0_notBefore(certificate));
  const std::optional<SystemTime> until = to_time(X509_get0_notAfter(certificate));
  if (!from || !until) return refused_file(file, "the certificate has no readable dates");
  if (now >= *until) return refused_file(file, "the certificate expired at " + shown(*until));
  if (now < *from) return refused_file(file, "the certificate is not valid before " + shown(*from));
  out.expires_at = *until;
  return {};
}

// As gRPC will do it at the next handshake, where a failure would only be a line on stderr.
Status check_usable(const NamedFile& cert, const NamedFile& key, X509* certificate, EVP_PKEY* private_key) {
  if (X509_check_private_key(certificate, private_key) != 1) {
    return refused_file(
        key, fmt::format("is not the private key of the certificate in {} \"{}\"", cert.option, cert.path));
  }
  const SslContext context(SSL_CTX_new(TLS_server_method()));
  if (context == nullptr || SSL_CTX_use_certificate(context.get(), certificate) != 1)
    return refused_file(cert, "TLS refuses the certificate: " + ErrorQueue::last());
  if (SSL_CTX_use_PrivateKey(context.get(), private_key) != 1)
    return refused_file(key, "TLS refuses the key: " + ErrorQueue::last());
  return {};
}

}  // namespace

std::vector<NamedFile> tls_files(const SecurityOptions& options) {
  std::vector<NamedFile> files{{"--tls-cert", options.tls_cert}, {"--tls-key", options.tls_key}};
  if (options.mutual_tls()) files.push_back({"--tls-client-ca", options.tls_client_ca});
  return files;
}

Result<TlsIdentity> check_tls_identity(const std::vector<NamedFile>& files,
                                       const std::vector<std::string>& contents, SystemTime now) {
  const ErrorQueue errors;
  TlsIdentity identity;
  identity.cert_pem = contents.at(0);
  identity.key_pem = contents.at(1);
  const std::vector<Certificate> chain = read_certificates(identity.cert_pem);
  if (chain.empty()) return refused_file(files[0], "is not a PEM file of certificates");
  const PrivateKey key = read_key(identity.key_pem);
  if (key == nullptr) return refused_file(files[1], "is not a PEM file of an unencrypted private key");
  X509* own = chain.front().get();
  KVCRUSH_RETURN_IF_ERROR(check_validity(files[0], own, now, identity));
  KVCRUSH_RETURN_IF_ERROR(check_usable(files[0], files[1], own, key.get()));
  if (files.size() > 2) {
    identity.client_ca_pem = contents.at(2);
    if (read_certificates(identity.client_ca_pem).empty())
      return refused_file(files[2], "is not a PEM file of certificates");
  }
  identity.subject = subject_of(own);
  identity.serial = serial_of(own);
  return identity;
}

}  // namespace kvcrush
