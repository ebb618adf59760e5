// Faults on purpose, so that tests and operators see what a server does when its engine has trouble. Nothing
// of it runs unless asked for (EngineConfig::faults).
#pragma once

#include <memory>
#include <string>

#include "engine/core/status.h"

namespace kvcrush {

class ModelExecutor;

struct FaultPlan {
  double nan_share = 0;        // of rows of logits that become NaN
  double exception_share = 0;  // of steps that throw, as a kernel that fails does
  double memory_share = 0;     // of steps that throw std::bad_alloc
  double stall_share = 0;      // of steps that take stall_ms longer
  int stall_ms = 1000;
  std::uint64_t seed = 0;

  bool any() const { return nan_share + exception_share + memory_share + stall_share > 0; }
};

// "nan=0.01,exception=0.001,memory=0.001,stall=0.01,stall-ms=2000,seed=7"; empty: none. INVALID_ARGUMENT
// naming the part and what is allowed.
Result<FaultPlan> parse_faults(const std::string& text);

// The executor, with faults of that plan.
std::unique_ptr<ModelExecutor> with_faults(std::unique_ptr<ModelExecutor> executor, const FaultPlan& plan);

}  // namespace kvcrush
