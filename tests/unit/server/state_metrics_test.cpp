#include "server/state_metrics.h"

#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <chrono>

namespace kvcrush {
namespace {

std::string text_of(const prometheus::Registry& registry) {
  return "\n" + prometheus::TextSerializer().Serialize(registry.Collect());
}

TEST(StateMetrics, ReadinessFollows) {
  prometheus::Registry registry;
  StateMetrics metrics(registry);
  EXPECT_NE(text_of(registry).find("\nkvcrush_ready 0\n"), std::string::npos);
  metrics.set_ready(true);
  EXPECT_NE(text_of(registry).find("\nkvcrush_ready 1\n"), std::string::npos);
  metrics.set_ready(false);
  EXPECT_NE(text_of(registry).find("\nkvcrush_ready 0\n"), std::string::npos);
}

TEST(StateMetrics, RoutersCountABlockOnceForAllLayers) {
  prometheus::Registry registry;
  StateMetrics metrics(registry);
  EXPECT_EQ(text_of(registry).find("kvcrush_cache_config_info{"), std::string::npos)
      << "before there is a cache";
  EngineLimits limits;
  limits.block_size_tokens = 16;
  limits.block_bytes = 1000;
  limits.num_blocks = 65;
  metrics.set_cache_config(limits, 3, "f32");
  const std::string text = text_of(registry);
  EXPECT_NE(text.find("\nkvcrush_cache_config_info{block_size=\"16\",kv_dtype=\"f32\",num_blocks=\"65\","
                      "num_gpu_blocks=\"21\"} 1\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("\nkvcrush_kv_pool_bytes 65000\n"), std::string::npos) << text;
}

TEST(StateMetrics, StartTimeIsNow) {
  const auto seconds = [] {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  };
  prometheus::Registry registry;
  const double before = seconds();
  const StateMetrics metrics(registry);
  double start = 0;
  for (const prometheus::MetricFamily& family : registry.Collect()) {
    if (family.name == "process_start_time_seconds") start = family.metric.at(0).gauge.value;
  }
  EXPECT_GE(start, before);
  EXPECT_LE(start, seconds());
}

}  // namespace
}  // namespace kvcrush
