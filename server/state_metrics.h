// What the server is, beside what it does: up since when, ready or not, and how its KV cache is cut.
#pragma once

#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <string>

#include "engine/engine.h"

namespace kvcrush {

// Thread-safe.
class StateMetrics {
 public:
  explicit StateMetrics(prometheus::Registry& registry);

  void set_ready(bool ready) { ready_.Set(ready ? 1 : 0); }
  void set_cache_config(const EngineLimits& limits, int num_layers, const std::string& kv_dtype);

 private:
  prometheus::Gauge& start_time_;
  prometheus::Gauge& ready_;
  prometheus::Gauge& pool_bytes_;
  prometheus::Family<prometheus::Gauge>& cache_config_;
};

}  // namespace kvcrush
