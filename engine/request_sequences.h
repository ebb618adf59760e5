// From a checked request to the sequences that carry it out: one per sample, and a trunk where they share a
// prefill.
#pragma once

#include <memory>
#include <vector>

#include "engine/engine.h"
#include "engine/model/observation.h"
#include "engine/scheduler/sequence.h"

namespace kvcrush {

// What sequences are made of beside their request.
struct SequenceContext {
  BlockPool* pool = nullptr;
  const ModelConfig* model = nullptr;
  const std::vector<TokenId>* model_stop_ids = nullptr;
  KvDtype default_dtype = KvDtype::kF32;
  int max_context_tokens = 0;
  bool prefix_cache = false;
  SequenceId first_id = 1;
};

// In ascending order of id: the trunk first, where there is one. Samples fork from a trunk when there are
// several or scores are compared, and when pool blocks suffice for the trunk beside the largest of them;
// samples that prune during prefill, or prefill in another float dtype, never do.
std::vector<std::unique_ptr<Sequence>> make_sequences(const EngineRequest& request,
                                                      const std::shared_ptr<TokenStream>& stream,
                                                      Clock::time_point arrived_at,
                                                      const SequenceContext& context);

// What a trunk must observe for its children.
ObservationNeeds needs_of_children(const EngineRequest& request, KvDtype default_dtype);

// Whether the pool, empty otherwise, holds a trunk beside the largest of the request's samples: what
// comparing needs.
bool fits_beside_trunk(const EngineRequest& request, const ModelConfig& model, KvDtype default_dtype,
                       int max_context_tokens, int num_blocks);

// Most tokens that may follow a prompt under a policy: what the context and a pool of `num_blocks` leave.
int max_new_tokens(const CachePolicy& policy, const ModelConfig& model, KvDtype default_dtype,
                   int max_context_tokens, int num_blocks, int num_prompt_tokens);

}  // namespace kvcrush
