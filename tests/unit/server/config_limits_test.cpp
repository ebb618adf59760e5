#include <gtest/gtest.h>

#include "server/config.h"

namespace kvcrush {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

ConfigOutcome parse(std::vector<std::string> args) {
  args.insert(args.begin(), {"--model", "some.gguf"});
  return parse_config(args);
}

TEST(ConfigLimits, EveryLimitIsAnOption) {
  const ConfigOutcome outcome =
      parse({"--max-streams-per-connection", "7", "--keepalive-time", "5", "--keepalive-timeout", "2.5",
             "--min-ping-interval", "1", "--max-connection-age", "600", "--max-connection-age-grace", "30",
             "--max-metadata-bytes", "32KiB", "--max-unread-bytes", "64KiB", "--step-stall-timeout", "12"});
  ASSERT_TRUE(outcome.config.has_value()) << outcome.message;
  const ServerLimits& limits = outcome.config->limits;
  EXPECT_EQ(limits.max_streams_per_connection, 7);
  EXPECT_EQ(limits.keepalive_time, seconds(5));
  EXPECT_EQ(limits.keepalive_timeout, milliseconds(2500));
  EXPECT_EQ(limits.min_ping_interval, seconds(1));
  EXPECT_EQ(limits.max_connection_age, seconds(600));
  EXPECT_EQ(limits.max_connection_age_grace, seconds(30));
  EXPECT_EQ(limits.max_metadata_bytes, 32 * 1024);
  EXPECT_EQ(limits.max_unread_bytes, 64u * 1024);
  EXPECT_EQ(limits.step_stall_timeout, seconds(12));
}

TEST(ConfigLimits, HelpShowsTheDefaultsThatHold) {
  const ConfigOutcome defaults = parse({});
  ASSERT_TRUE(defaults.config.has_value()) << defaults.message;
  EXPECT_EQ(defaults.config->limits.max_unread_bytes, ServerLimits().max_unread_bytes);
  EXPECT_EQ(defaults.config->limits.max_metadata_bytes, ServerLimits().max_metadata_bytes);
  EXPECT_EQ(defaults.config->limits.max_connection_age, seconds(1800));
  const std::string help = parse({"--help"}).message;
  for (const char* line : {"--max-connection-age FLOAT:FLOAT in [0 - 1.728e+06]=1800 ",
                           "--max-unread-bytes TEXT=1MiB ", "--max-metadata-bytes TEXT=16KiB "})
    EXPECT_NE(help.find(line), std::string::npos) << line << " in " << help;
}

TEST(ConfigLimits, ZeroMeansNoBoundWhereTheHelpSaysSo) {
  const ConfigOutcome outcome =
      parse({"--max-unread-bytes", "0", "--max-connection-age", "0", "--max-connection-age-grace", "0",
             "--keepalive-time", "0", "--step-stall-timeout", "0"});
  ASSERT_TRUE(outcome.config.has_value()) << outcome.message;
  EXPECT_EQ(outcome.config->limits.max_unread_bytes, 0u);
  EXPECT_EQ(outcome.config->limits.step_stall_timeout, milliseconds(0));
}

TEST(ConfigLimits, RefusalsNameOptionAndRange) {
  const std::vector<std::vector<std::string>> wrong{
      {"--max-unread-bytes", "100"},         {"--max-unread-bytes", "2GiB"},
      {"--max-metadata-bytes", "0"},         {"--max-metadata-bytes", "2MiB"},
      {"--max-streams-per-connection", "0"}, {"--keepalive-timeout", "0"},
      {"--max-connection-age", "-1"},        {"--max-connection-age", "1e9"},
      {"--step-stall-timeout", "soon"}};
  for (const std::vector<std::string>& args : wrong) {
    const ConfigOutcome outcome = parse(args);
    EXPECT_FALSE(outcome.config.has_value()) << args[0] << " " << args[1];
    EXPECT_NE(outcome.message.find(args[0]), std::string::npos) << outcome.message;
  }
  EXPECT_NE(parse({"--max-unread-bytes", "100"}).message.find("0 (no bound) or [4KiB, 1GiB]"),
            std::string::npos);
}

}  // namespace
}  // namespace kvcrush
