#include "server/http_endpoints.h"

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <string>
#include <system_error>

#include "tests/unit/server/http_client.h"

namespace kvcrush {
namespace {

// As CUDA's libraries have it in every thread of a program: more than the stacks that civetweb asks for.
[[gnu::used]] thread_local std::array<char, 256 << 10> thread_local_storage;

class Http : public ::testing::Test {
 protected:
  // One server for all: stopping one takes a second or two.
  static void SetUpTestSuite() {
    auto listening =
        HttpEndpoints::listen("127.0.0.1:0", {[] { return "metric 1\n"; }, [] { return reason_; }});
    ASSERT_TRUE(listening.ok()) << listening.status().message();
    http_ = std::move(listening).value();
  }
  static void TearDownTestSuite() { http_.reset(); }
  void SetUp() override { reason_ = ""; }
  test::HttpAnswer ask(const std::string& method, const std::string& path) {
    return test::http_ask(http_->port(), method, path);
  }
  inline static std::string reason_;
  inline static std::unique_ptr<HttpEndpoints> http_;
};

TEST_F(Http, PagesAnswerGet) {
  EXPECT_EQ(ask("GET", "/metrics").status, 200);
  EXPECT_EQ(ask("GET", "/metrics").body, "metric 1\n");
  EXPECT_NE(ask("GET", "/metrics").head.find("text/plain; version=0.0.4"), std::string::npos);
  EXPECT_EQ(ask("GET", "/healthz").status, 200);
  EXPECT_EQ(ask("GET", "/readyz").status, 200);
}

TEST_F(Http, NotReadyGivesTheReason) {
  reason_ = "loading: weights";
  EXPECT_EQ(ask("GET", "/readyz").status, 503);
  EXPECT_EQ(ask("GET", "/readyz").body, "loading: weights\n");
  EXPECT_EQ(ask("GET", "/healthz").status, 200);
}

TEST_F(Http, HeadHasNoBody) {
  const test::HttpAnswer answer = ask("HEAD", "/metrics");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body, "");
  EXPECT_NE(answer.head.find("Content-Length: 9"), std::string::npos) << answer.head;
}

TEST_F(Http, OtherMethodsAndPathsAreRefused) {
  for (const char* method : {"POST", "PUT", "DELETE", "PATCH", "OPTIONS"}) {
    EXPECT_EQ(ask(method, "/metrics").status, 405) << method;
  }
  EXPECT_EQ(ask("GET", "/").status, 404);
  EXPECT_EQ(ask("GET", "/metricsx").status, 404);
  EXPECT_EQ(ask("GET", "/../etc/passwd").status / 100, 4);
}

TEST_F(Http, TakenAddressIsAnError) {
  const auto second = HttpEndpoints::listen("127.0.0.1:" + std::to_string(http_->port()), {});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), StatusCode::kUnavailable);
  EXPECT_NE(second.status().message().find("127.0.0.1:"), std::string::npos);
  EXPECT_NE(second.status().message().find(std::generic_category().message(EADDRINUSE)), std::string::npos)
      << second.status().message();
}

}  // namespace
}  // namespace kvcrush
