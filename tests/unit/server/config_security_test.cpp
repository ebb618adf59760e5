#include <gtest/gtest.h>

#include <cstdlib>

#include "server/config.h"

namespace kvcrush {
namespace {

ConfigOutcome parse(std::vector<std::string> args) {
  args.insert(args.begin(), {"--model", "some.gguf"});
  return parse_config(args);
}

SecurityOptions good(const std::vector<std::string>& args) {
  const ConfigOutcome outcome = parse(args);
  EXPECT_TRUE(outcome.config.has_value()) << outcome.message;
  return outcome.config.value_or(ServerConfig()).security;
}

void expect_refused(const std::vector<std::string>& args, const std::vector<std::string>& words) {
  const ConfigOutcome outcome = parse(args);
  ASSERT_FALSE(outcome.config.has_value());
  EXPECT_EQ(outcome.exit_code, 2);
  for (const std::string& word : words)
    EXPECT_NE(outcome.message.find(word), std::string::npos) << word << " in: " << outcome.message;
}

TEST(ConfigSecurity, DefaultsGuardLoopbackOnly) {
  const SecurityOptions options = good({});
  EXPECT_FALSE(options.tls());
  EXPECT_FALSE(options.mutual_tls());
  EXPECT_FALSE(options.tokens());
  EXPECT_FALSE(options.allow_plaintext);
  EXPECT_TRUE(options.reflection);
  EXPECT_FALSE(options.log_prompts);
}

TEST(ConfigSecurity, EveryOptionCanBeSet) {
  const SecurityOptions options =
      good({"--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a", "--auth-tokens", "t",
            "--allow-plaintext", "--reflection", "off", "--log-prompts", "--listen", "0.0.0.0:1"});
  EXPECT_EQ(options.tls_cert, "c");
  EXPECT_EQ(options.tls_key, "k");
  EXPECT_EQ(options.tls_client_ca, "a");
  EXPECT_EQ(options.auth_tokens, "t");
  EXPECT_TRUE(options.allow_plaintext);
  EXPECT_FALSE(options.reflection);
  EXPECT_TRUE(options.log_prompts);
}

TEST(ConfigSecurity, PlaintextStaysOnLoopbackUnlessAllowed) {
  for (const char* listen : {"0.0.0.0:1", "[::]:1", "10.1.2.3:1", "example.org:1", "128.0.0.1:1",
                             "127.evil.org:1", "localhost.evil.org:1", "[::ffff:10.0.0.1]:1"}) {
    expect_refused({"--listen", listen}, {"--listen", listen, "--tls-cert", "--allow-plaintext"});
    good({"--listen", listen, "--allow-plaintext"});
    good({"--listen", listen, "--tls-cert", "c", "--tls-key", "k"});
  }
  for (const char* listen : {"127.0.0.1:1", "127.8.9.10:1", "localhost:1", "[::1]:1", "[::ffff:127.0.0.1]:1"})
    good({"--listen", listen});
}

TEST(ConfigSecurity, TheEnvironmentCanAllowPlaintext) {
  for (const auto& [value, allowed] : {std::pair{"true", true}, std::pair{"false", false}}) {
    setenv("KVCRUSH_ALLOW_PLAINTEXT", value, 1);
    EXPECT_EQ(parse({"--listen", "0.0.0.0:1"}).config.has_value(), allowed) << value;
    unsetenv("KVCRUSH_ALLOW_PLAINTEXT");
  }
}

TEST(ConfigSecurity, TlsOptionsNeedOneAnother) {
  expect_refused({"--tls-cert", "c.pem"}, {"--tls-cert", "c.pem", "--tls-key"});
  expect_refused({"--tls-key", "k.pem"}, {"--tls-key", "k.pem", "--tls-cert"});
  expect_refused({"--tls-client-ca", "a.pem"}, {"--tls-client-ca", "a.pem", "--tls-cert"});
  expect_refused({"--reflection", "maybe"}, {"--reflection"});
}

}  // namespace
}  // namespace kvcrush
