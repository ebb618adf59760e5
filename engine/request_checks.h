// Which requests the engine takes.
#pragma once

#include "engine/core/kv_dtype.h"
#include "engine/engine.h"

namespace kvcrush {

struct RoomContext {
  const ModelConfig& model;
  const EngineLimits& limits;
  KvDtype default_dtype;
  bool on_gpu = false;
};

// Whether every sample can run to its end in an empty pool; INVALID_ARGUMENT naming the field and what is
// allowed.
Status check_room(const EngineRequest& request, const RoomContext& context);

// What waits to be scheduled.
struct QueueLoad {
  int samples = 0;
  std::int64_t tokens = 0;  // of prompts, to be computed
};

// INVALID_ARGUMENT: more samples than the queue ever holds. DEADLINE_EXCEEDED: it has passed.
// RESOURCE_EXHAUSTED: the queue is full. A request alone in the queue is taken, however long its prompt.
Status check_queue(const EngineRequest& request, const EngineConfig& config, const QueueLoad& queued,
                   std::chrono::steady_clock::time_point now);

}  // namespace kvcrush
