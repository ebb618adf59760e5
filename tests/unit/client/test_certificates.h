// Certificates for one test run, made by the openssl command: a CA, a server at 127.0.0.1 and a client.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace kvcrush::client::test {

class TestCertificates {
 public:
  TestCertificates() {
    std::string folder = ::testing::TempDir() + "kvcrush-tls-XXXXXX";
    if (mkdtemp(folder.data()) == nullptr) ADD_FAILURE() << "cannot make " << folder;
    folder_ = folder;
    run("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-ca -keyout "
        "ca.key -out ca.pem");
    run("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other-ca -keyout "
        "other.key -out other.pem");
    issue("server", "subjectAltName=IP:127.0.0.1,DNS:kvcrush.test");
    issue("client", "subjectAltName=DNS:client");
  }
  ~TestCertificates() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  TestCertificates(const TestCertificates&) = delete;
  TestCertificates& operator=(const TestCertificates&) = delete;

  std::string path(const std::string& name) const { return folder_ / name; }
  std::string read(const std::string& name) const {
    std::ifstream in(path(name));
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

 private:
  void issue(const std::string& name, const std::string& extension) {
    std::ofstream(path(name + ".ext")) << extension << '\n';
    run("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=" + name + " -keyout " + name +
        ".key -out " + name + ".csr");
    run("x509 -req -in " + name + ".csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile " + name +
        ".ext -out " + name + ".pem");
  }

  void run(const std::string& arguments) const {
    const std::string command =
        "cd '" + folder_.string() + "' && openssl " + arguments + " >>openssl.log 2>&1";
    ASSERT_EQ(std::system(command.c_str()), 0) << command << '\n' << read("openssl.log");
  }

  std::filesystem::path folder_;
};

}  // namespace kvcrush::client::test
