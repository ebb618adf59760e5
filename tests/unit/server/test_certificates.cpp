#include "tests/unit/server/test_certificates.h"

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <fstream>

#include "engine/core/status.h"

namespace kvcrush::test {
namespace {

std::string drained(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<std::size_t>(size));
  BIO_free(bio);
  return text;
}

void add_extension(X509* certificate, int nid, const std::string& value) {
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value.c_str());
  KVCRUSH_CHECK(extension != nullptr);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

}  // namespace

TestCertificate::TestCertificate(const CertificateSpec& spec, const TestCertificate* issuer)
    : key_(EVP_EC_gen("P-256"), EVP_PKEY_free), certificate_(X509_new(), X509_free) {
  X509* x509 = certificate_.get();
  X509_set_version(x509, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(x509), spec.serial);
  X509_gmtime_adj(X509_getm_notBefore(x509), spec.valid_from.count());
  X509_gmtime_adj(X509_getm_notAfter(x509), spec.valid_until.count());
  if (!spec.valid_until_text.empty())
    KVCRUSH_CHECK(ASN1_TIME_set_string(X509_getm_notAfter(x509), spec.valid_until_text.c_str()) == 1);
  X509_set_pubkey(x509, key_.get());
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(spec.name.c_str()), -1, -1, 0);
  const TestCertificate& signer = issuer != nullptr ? *issuer : *this;
  X509_set_issuer_name(x509, X509_get_subject_name(signer.certificate_.get()));
  add_extension(x509, NID_subject_alt_name, "DNS:" + spec.name + ",IP:127.0.0.1");
  if (issuer == nullptr) add_extension(x509, NID_basic_constraints, "critical,CA:TRUE");
  KVCRUSH_CHECK(X509_sign(x509, signer.key_.get(), EVP_sha256()) > 0);
}

std::string TestCertificate::cert_pem() const {
  BIO* bio = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(bio, certificate_.get());
  return drained(bio);
}

std::string TestCertificate::key_pem(const std::string& password) const {
  BIO* bio = BIO_new(BIO_s_mem());
  PEM_write_bio_PKCS8PrivateKey(bio, key_.get(), password.empty() ? nullptr : EVP_aes_256_cbc(),
                                password.empty() ? nullptr : password.c_str(),
                                static_cast<int>(password.size()), nullptr, nullptr);
  return drained(bio);
}

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  KVCRUSH_CHECK(file.flush().good());
}

}  // namespace kvcrush::test
