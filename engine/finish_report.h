// What a sequence's end tells its client.
#pragma once

#include "engine/model/model_config.h"
#include "engine/scheduler/sequence.h"

namespace kvcrush {

struct KvAccounting {
  const ModelConfig& model;
  KvDtype default_dtype;
  std::int64_t block_bytes;
};

// Pool bytes the sequence would hold with every token so far in the engine's dtype (f16 where that is
// quantised).
std::int64_t uncompressed_kv_bytes(const Sequence& sequence, const KvAccounting& accounting);

FinishEvent make_finish_event(const Sequence& sequence, FinishReason reason, const KvAccounting& accounting);

}  // namespace kvcrush
