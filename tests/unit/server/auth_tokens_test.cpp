#include "server/auth_tokens.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>

namespace kvcrush {
namespace {

using std::chrono::system_clock;

// sha256 of "alpha", "beta" and "gamma", from `printf %s alpha | sha256sum`.
const std::string kAlpha = "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8";
const std::string kBeta = "f44e64e75f3948e9f73f8dfa94721c4ce8cbb4f265c4790c702b2d41cfbf2753";
const std::string kGamma = "be9d587defa1f0c09ef49eb17e206983a5f8f8289e4281860bd0ee5a19592c67";

std::string entry(const std::string& name, const std::string& digest, const std::string& rest = "") {
  return R"({"name": ")" + name + R"(", "sha256": ")" + digest + "\"" + rest + "}";
}

std::string file(const std::string& entries) {
  return R"({"tokens": [)" + entries + "]}";
}

TokenSet good(const std::string& entries) {
  Result<TokenSet> set = TokenSet::parse(file(entries));
  EXPECT_TRUE(set.ok()) << set.status().message();
  return std::move(set).value();
}

std::string bad(const std::string& text) {
  const Result<TokenSet> set = TokenSet::parse(text);
  EXPECT_FALSE(set.ok()) << text;
  return set.status().message();
}

TEST(AuthTokens, LeftOutFieldsHaveTheirDefaults) {
  const TokenSet set = good(entry("search", kAlpha));
  const AuthToken* token = set.find("alpha");
  ASSERT_NE(token, nullptr);
  EXPECT_EQ(token->name, "search");
  EXPECT_EQ(token->tenant, "search");
  EXPECT_TRUE(token->may_generate);
  EXPECT_FALSE(token->is_admin);
  EXPECT_FALSE(token->expired(system_clock::now() + std::chrono::hours(24 * 36500)));
  EXPECT_EQ(token->limits.max_concurrent_requests, 0);
  EXPECT_EQ(token->limits.max_requests_per_minute, 0);
  EXPECT_EQ(token->limits.max_tokens_per_request, 0);
}

TEST(AuthTokens, EveryFieldIsRead) {
  const TokenSet set =
      good(entry("ops", kAlpha, R"(, "tenant": "acme", "expires": "2030-01-02T04:04:05+01:00",
      "scopes": ["admin"], "max_concurrent_requests": 3, "max_requests_per_minute": 60, "max_tokens_per_request": 99,
      "share": 2.5)"));
  const AuthToken* token = set.by_name("ops");
  ASSERT_NE(token, nullptr);
  EXPECT_EQ(token->tenant, "acme");
  const system_clock::time_point expiry = system_clock::from_time_t(1893553445);  // date -d ... +%s
  EXPECT_TRUE(token->expired(expiry));
  EXPECT_FALSE(token->expired(expiry - std::chrono::seconds(1)));
  EXPECT_FALSE(token->may_generate);
  EXPECT_TRUE(token->is_admin);
  EXPECT_EQ(token->limits.max_concurrent_requests, 3);
  EXPECT_EQ(token->limits.max_requests_per_minute, 60);
  EXPECT_EQ(token->limits.max_tokens_per_request, 99);
  EXPECT_EQ(token->share, 2.5);
}

TEST(AuthTokens, BadFilesNameEntryAndField) {
  const std::string one = entry("a", kAlpha);
  const std::map<std::string, std::vector<std::string>> cases{
      {"no JSON", {"", "{", file(one) + "x", "tokens"}},
      {"\"tokens\"", {"[]", "{}", "3", R"({"tokens": {}})", R"({"tokens": [], "more": 1})"}},
      {"tokens[0] is no object", {file("3"), file("[]")}},
      {"tokens[1].name",
       {file(one + "," + entry("", kBeta)), file(one + "," + entry("a b", kBeta)),
        file(one + R"(, {"sha256": ")" + kBeta + "\"}"), file(one + "," + entry("a", kBeta)),
        file(one + "," + entry(std::string(65, 'x'), kBeta))}},
      {"tokens[0].sha256",
       {file(entry("a", "alpha")), file(entry("a", kAlpha.substr(1))),
        file(entry("a", "g" + kAlpha.substr(1))), file(R"({"name": "a", "sha256": 5})")}},
      {"tokens[1].sha256", {file(one + "," + entry("b", kAlpha))}},
      {"tokens[0].tenant",
       {file(entry("a", kAlpha, R"(, "tenant": "")")), file(entry("a", kAlpha, R"(, "tenant": 1)"))}},
      {"tokens[0].expires",
       {file(entry("a", kAlpha, R"(, "expires": "soon")")),
        file(entry("a", kAlpha, R"(, "expires": "2030-02-30T00:00:00Z")")),
        file(entry("a", kAlpha, R"(, "expires": "infinite-future")")),
        file(entry("a", kAlpha, R"(, "expires": 1893553445)"))}},
      {"tokens[0].scopes",
       {file(entry("a", kAlpha, R"(, "scopes": [])")), file(entry("a", kAlpha, R"(, "scopes": ["root"])")),
        file(entry("a", kAlpha, R"(, "scopes": "admin")"))}},
      {"tokens[0].max_requests_per_minute",
       {file(entry("a", kAlpha, R"(, "max_requests_per_minute": 0)")),
        file(entry("a", kAlpha, R"(, "max_requests_per_minute": 1.5)")),
        file(entry("a", kAlpha, R"(, "max_requests_per_minute": 18446744073709551615)"))}},
      {"tokens[0].expire is unknown", {file(entry("a", kAlpha, R"(, "expire": "2030-01-01T00:00:00Z")"))}},
  };
  for (const auto& [words, texts] : cases) {
    for (const std::string& text : texts) {
      const std::string message = bad(text);
      EXPECT_NE(message.find(words), std::string::npos) << words << " in: " << message;
      EXPECT_EQ(message.find(kAlpha.substr(1)), std::string::npos) << message;
    }
  }
}

TEST(AuthTokens, APlainTokenInTheFileIsNotEchoed) {
  EXPECT_EQ(bad(file(entry("a", "my-secret-token"))).find("secret"), std::string::npos);
  EXPECT_EQ(bad("my-secret-token").find("secret"), std::string::npos);
}

int g_compared = 0;
int counting_compare(const void* a, const void* b, std::size_t num_bytes) {
  ++g_compared;
  return compare_in_constant_time(a, b, num_bytes);
}

TEST(AuthTokens, EveryEntryIsComparedWhicheverMatches) {
  const TokenSet set = good(entry("a", kAlpha) + "," + entry("b", kBeta) + "," + entry("c", kGamma));
  const std::map<std::string, const char*> owners{
      {"alpha", "a"}, {"beta", "b"}, {"delta", nullptr}, {"", nullptr}};
  for (const auto& [token, name] : owners) {
    g_compared = 0;
    const AuthToken* found = set.find(token, counting_compare);
    EXPECT_EQ(g_compared, 3) << token;
    ASSERT_EQ(found == nullptr, name == nullptr) << token;
    if (found != nullptr) {
      EXPECT_EQ(found->name, name);
    }
  }
}

TEST(AuthTokens, ASetMayBeEmpty) {  // how the last token is taken back
  const TokenSet set = good("");
  EXPECT_EQ(set.size(), 0u);
  EXPECT_EQ(set.find("alpha"), nullptr);
}

}  // namespace
}  // namespace kvcrush
