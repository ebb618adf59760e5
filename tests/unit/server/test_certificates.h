// Certificates made on the spot, for tests.
#pragma once

#include <chrono>
#include <memory>
#include <string>

struct evp_pkey_st;
struct x509_st;

namespace kvcrush::test {

struct CertificateSpec {
  std::string name = "localhost";  // subject and, with 127.0.0.1, alternative name
  long serial = 1;
  std::chrono::seconds valid_from{-3600};  // from now
  std::chrono::seconds valid_until{86400};
  std::string valid_until_text = "";  // instead, as certificates say it: YYYYMMDDHHMMSSZ
};

class TestCertificate {
 public:
  // Signed by `issuer`, or by itself.
  explicit TestCertificate(const CertificateSpec& spec, const TestCertificate* issuer = nullptr);

  std::string cert_pem() const;
  std::string key_pem(const std::string& password = "") const;

 private:
  std::shared_ptr<evp_pkey_st> key_;
  std::shared_ptr<x509_st> certificate_;
};

// Over what is there, as `cp` does.
void write_file(const std::string& path, const std::string& text);

}  // namespace kvcrush::test
