#include "server/tls_identity.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "server/reloading.h"
#include "tests/unit/server/test_certificates.h"

namespace kvcrush::test {
namespace {

using std::chrono::hours;
using std::chrono::seconds;
using std::chrono::system_clock;

const std::vector<NamedFile> kFiles{
    {"--tls-cert", "c.pem"}, {"--tls-key", "k.pem"}, {"--tls-client-ca", "a.pem"}};

Result<TlsIdentity> check(const std::string& cert, const std::string& key,
                          system_clock::time_point now = system_clock::now()) {
  return check_tls_identity({kFiles[0], kFiles[1]}, {cert, key}, now);
}

void expect_refused(const Result<TlsIdentity>& result, const std::vector<std::string>& words) {
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
  for (const std::string& word : words)
    EXPECT_NE(result.status().message().find(word), std::string::npos)
        << word << " in: " << result.status().message();
}

TEST(TlsIdentity, ReadsChainSerialAndExpiry) {
  const TestCertificate authority({.name = "authority"});
  const TestCertificate own({.name = "server", .serial = 0xabc, .valid_until = hours(48)}, &authority);
  const Result<TlsIdentity> identity =
      check_tls_identity(kFiles, {own.cert_pem() + authority.cert_pem(), own.key_pem(), authority.cert_pem()},
                         system_clock::now());
  ASSERT_TRUE(identity.ok()) << identity.status().message();
  EXPECT_EQ(identity->serial, "0ABC");
  EXPECT_EQ(identity->subject, "CN=server");
  EXPECT_EQ(identity->client_ca_pem, authority.cert_pem());
  const auto left = identity->expires_at - system_clock::now();
  EXPECT_LT(left, hours(48));
  EXPECT_GT(left, hours(48) - seconds(60));
}

TEST(TlsIdentity, CertificatesWithoutAnEndAreValid) {
  // 2262-04-11 is the last day that the clock of nanoseconds knows.
  for (const char* until : {"22620411000000Z", "22620412000000Z", "22990101000000Z", "99991231235959Z"}) {
    const TestCertificate own({.valid_until_text = until});
    const Result<TlsIdentity> identity = check(own.cert_pem(), own.key_pem());
    ASSERT_TRUE(identity.ok()) << until << ": " << identity.status().message();
    EXPECT_GT(identity->expires_at - system_clock::now(), hours(24 * 365 * 200)) << until;
  }
}

TEST(TlsIdentity, RefusalsNameOptionAndFile) {
  const TestCertificate own({});
  const TestCertificate other({});
  const std::string cert = own.cert_pem();
  const std::string key = own.key_pem();
  expect_refused(check(cert, other.key_pem()),
                 {"--tls-key", "k.pem", "not the private key", "--tls-cert", "c.pem"});
  expect_refused(check("", key), {"--tls-cert", "c.pem", "not a PEM"});
  expect_refused(check("noise", key), {"--tls-cert", "c.pem"});
  expect_refused(check(cert.substr(0, cert.size() / 2), key), {"--tls-cert", "c.pem"});
  expect_refused(check(cert + other.cert_pem().substr(0, 200), key), {"--tls-cert", "c.pem"});
  expect_refused(check(cert, key.substr(0, key.size() / 2)), {"--tls-key", "k.pem"});
  expect_refused(check(cert, own.key_pem("password")), {"--tls-key", "k.pem", "unencrypted"});
  expect_refused(check(cert, key, system_clock::now() + hours(25)), {"--tls-cert", "c.pem", "expired at 2"});
  expect_refused(check(cert, key, system_clock::now() - hours(2)),
                 {"--tls-cert", "c.pem", "not valid before 2"});
  expect_refused(check_tls_identity(kFiles, {cert, key, "noise"}, system_clock::now()),
                 {"--tls-client-ca", "a.pem"});
}

// A folder as Kubernetes mounts secrets: files are links into ..data, itself a link that is swapped.
class Reload : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    std::filesystem::create_symlink("..data/cert.pem", folder_ + "cert.pem");
    std::filesystem::create_symlink("..data/key.pem", folder_ + "key.pem");
  }

  void swap_in(const std::string& generation, const std::string& cert, const std::string& key) {
    std::filesystem::create_directory(folder_ + generation);
    write_file(folder_ + generation + "/cert.pem", cert);
    write_file(folder_ + generation + "/key.pem", key);
    std::filesystem::remove(folder_ + "..data_tmp");
    std::filesystem::create_directory_symlink(generation, folder_ + "..data_tmp");
    std::filesystem::rename(folder_ + "..data_tmp", folder_ + "..data");
  }
  void swap_in(const std::string& generation, const TestCertificate& certificate) {
    swap_in(generation, certificate.cert_pem(), certificate.key_pem());
  }

  std::vector<NamedFile> files() const {
    return {{"--tls-cert", folder_ + "cert.pem"}, {"--tls-key", folder_ + "key.pem"}};
  }

  const std::string folder_ = ::testing::TempDir() + "kvcrush_tls_reload/";
  std::vector<std::string> reports_;  // "" for a reload, the message of a failure
  Reloading<TlsIdentity> tls_{
      files(),
      [this](const std::vector<std::string>& contents) {
        return check_tls_identity(files(), contents, system_clock::now());
      },
      [this](const Status& status, const TlsIdentity&) { reports_.push_back(status.message()); }};
};

TEST_F(Reload, FolderSwappedByLink) {
  swap_in("..1", TestCertificate({.serial = 1}));
  ASSERT_TRUE(tls_.load().ok());
  tls_.poll();
  EXPECT_TRUE(reports_.empty());
  swap_in("..2", TestCertificate({.serial = 2}));
  tls_.poll();
  EXPECT_EQ(reports_, std::vector<std::string>{""});
  EXPECT_EQ(tls_.current()->serial, "02");
}

TEST_F(Reload, WhatCannotBeUsedLeavesTheOldPairAndIsReportedOnce) {
  const TestCertificate first({.serial = 1});
  const TestCertificate second({.serial = 2});
  swap_in("..1", first);
  ASSERT_TRUE(tls_.load().ok());
  swap_in("..2", second.cert_pem(), first.key_pem());
  tls_.poll();
  EXPECT_TRUE(reports_.empty()) << "the key may be on its way";
  for (int i = 0; i < 3; ++i) tls_.poll();
  ASSERT_EQ(reports_.size(), 1u);
  EXPECT_NE(reports_[0].find("not the private key"), std::string::npos);
  EXPECT_EQ(tls_.current()->serial, "01");
  std::filesystem::remove_all(folder_ + "..2");
  for (int i = 0; i < 3; ++i) tls_.poll();
  ASSERT_EQ(reports_.size(), 2u);
  EXPECT_NE(reports_[1].find("cannot be read (No such file"), std::string::npos) << reports_[1];
  EXPECT_EQ(tls_.current()->serial, "01");
  swap_in("..3", second);
  tls_.poll();
  ASSERT_EQ(reports_.size(), 3u);
  EXPECT_EQ(reports_[2], "");
  EXPECT_EQ(tls_.current()->serial, "02");
}

TEST_F(Reload, HalfAPairThatIsCompletedInTimeIsNoFailure) {
  const TestCertificate first({.serial = 1});
  const TestCertificate second({.serial = 2});
  swap_in("..1", first);
  ASSERT_TRUE(tls_.load().ok());
  write_file(folder_ + "cert.pem", second.cert_pem());
  tls_.poll();
  write_file(folder_ + "key.pem", second.key_pem());
  tls_.poll();
  EXPECT_EQ(reports_, std::vector<std::string>{""});
  EXPECT_EQ(tls_.current()->serial, "02");
}

TEST_F(Reload, MissingFileStopsTheStart) {
  const Status status = tls_.load();
  EXPECT_NE(status.message().find("--tls-cert is \"" + folder_ + "cert.pem\""), std::string::npos)
      << status.message();
  EXPECT_EQ(tls_.current(), nullptr);
}

TEST(SmallFile, FoldersAndLargeFilesAreRefused) {
  const std::string folder = ::testing::TempDir();
  EXPECT_NE(read_small_file({"--x", folder}).status().message().find("cannot be read"), std::string::npos);
  const std::string path = folder + "kvcrush_large_file";
  write_file(path, std::string((1 << 20) + 1, 'x'));
  EXPECT_NE(read_small_file({"--x", path}).status().message().find("larger than 1 MiB"), std::string::npos);
  write_file(path, std::string(1 << 20, 'x'));
  EXPECT_EQ(read_small_file({"--x", path})->size(), std::size_t{1} << 20);
  write_file(path, "");
  EXPECT_EQ(*read_small_file({"--x", path}), "");
}

}  // namespace
}  // namespace kvcrush::test
