#include "server/state_metrics.h"

#include <chrono>

namespace kvcrush {
namespace {

prometheus::Family<prometheus::Gauge>& gauges(prometheus::Registry& registry, const char* name,
                                              const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}

}  // namespace

StateMetrics::StateMetrics(prometheus::Registry& registry)
    : start_time_(
          gauges(registry, "process_start_time_seconds", "When this process started, Unix time").Add({})),
      ready_(gauges(registry, "kvcrush_ready", "1 when new requests are taken on, as /readyz says, else 0")
                 .Add({})),
      pool_bytes_(gauges(registry, "kvcrush_kv_pool_bytes", "Bytes of all KV blocks of the pool").Add({})),
      cache_config_(
          gauges(registry, "kvcrush_cache_config_info",
                 "How the KV cache is cut: num_blocks blocks of one layer each, which are enough for "
                 "num_gpu_blocks times block_size tokens in every layer; always 1")) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  start_time_.Set(std::chrono::duration<double>(now).count());
}

void StateMetrics::set_cache_config(const EngineLimits& limits, int num_layers, const std::string& kv_dtype) {
  pool_bytes_.Set(static_cast<double>(limits.num_blocks * limits.block_bytes));
  // Routers multiply num_gpu_blocks by block_size to learn how many tokens fit, so a block counts there once
  // for all layers. The name is the one they look for, whatever the device.
  cache_config_
      .Add({{"block_size", std::to_string(limits.block_size_tokens)},
            {"num_blocks", std::to_string(limits.num_blocks)},
            {"num_gpu_blocks", std::to_string(limits.num_blocks / num_layers)},
            {"kv_dtype", kv_dtype}})
      .Set(1);
}

}  // namespace kvcrush
