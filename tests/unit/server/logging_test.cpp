#include "server/logging.h"

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

namespace kvcrush {
namespace {

class Logging : public ::testing::Test {
 protected:
  void start(const LogOptions& options) {
    init_logging(options, {std::make_shared<spdlog::sinks::ostream_sink_mt>(out_)});
  }
  std::ostringstream out_;
};

TEST_F(Logging, TextQuotesOnlyWhatNeedsIt) {
  start({"info", LogFormat::kText});
  LogLine(spdlog::level::info, "arrived")
      .with("request_id", "r-1")
      .with("index", 2)
      .with("ms", 1.5)
      .with("pruned", true)
      .with("why", "two words, a \"quote\"\nand a line");
  const std::string line = out_.str();
  EXPECT_NE(line.find("level=info event=arrived request_id=r-1 index=2 ms=1.500 pruned=true"),
            std::string::npos)
      << line;
  EXPECT_NE(line.find(R"(why="two words, a \"quote\"\nand a line")"), std::string::npos) << line;
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
}

TEST_F(Logging, JsonLinesParseWhateverTheValue) {
  start({"info", LogFormat::kJson});
  const std::string nasty = "\"\\\n\t\x01 {} %v \xFF\xC3\xA9";
  LogLine(spdlog::level::warn, "rejected").with("request_id", nasty).with("n", 3).with("ratio", 0.25);
  const nlohmann::json line = nlohmann::json::parse(out_.str());
  EXPECT_EQ(line.at("event"), "rejected");
  EXPECT_EQ(line.at("level"), "warning");
  EXPECT_EQ(line.at("severity_number"), 13);
  EXPECT_FALSE(line.contains("trace_id"));
  EXPECT_EQ(line.at("request_id"), "\"\\\n\t\x01 {} %v \xEF\xBF\xBD\xC3\xA9");
  EXPECT_EQ(line.at("n"), 3);
  EXPECT_EQ(line.at("ratio"), 0.25);
  EXPECT_TRUE(line.contains("time"));
}

TEST_F(Logging, LinesOfARequestNameItAndTheCallersSpan) {
  start({"info", LogFormat::kJson});
  LogLine(spdlog::level::info, "arrived")
      .with_request("r-1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  const nlohmann::json traced = nlohmann::json::parse(out_.str());
  EXPECT_EQ(traced.at("request_id"), "r-1");
  EXPECT_EQ(traced.at("trace_id"), "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(traced.at("span_id"), "b7ad6b7169203331");
  EXPECT_EQ(traced.at("trace_flags"), "01");
  out_.str("");
  LogLine(spdlog::level::info, "arrived").with_request("r-2", "");
  const nlohmann::json plain = nlohmann::json::parse(out_.str());
  EXPECT_EQ(plain.at("request_id"), "r-2");
  EXPECT_FALSE(plain.contains("trace_id") || plain.contains("span_id") || plain.contains("trace_flags"));
}

TEST_F(Logging, LevelHidesLesserLines) {
  start({"warn", LogFormat::kText});
  LogLine(spdlog::level::info, "hidden");
  EXPECT_EQ(out_.str(), "");
  LogLine(spdlog::level::err, "shown");
  EXPECT_NE(out_.str().find("event=shown"), std::string::npos);
}

TEST(LoggingEnd, LinesAfterShutdownAreDropped) {
  init_logging({}, {std::make_shared<spdlog::sinks::stdout_sink_mt>()});
  EXPECT_TRUE(shutdown_logging());
  LogLine(spdlog::level::info, "late").with("k", "v");
  init_logging({}, {});
  EXPECT_TRUE(shutdown_logging());
}

}  // namespace
}  // namespace kvcrush
