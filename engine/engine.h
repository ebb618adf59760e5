// The engine: one thread that owns all sequences and the KV cache, fed through a bounded queue, answering
// through one TokenStream per request. No torch, gRPC or protobuf type appears here.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/observer.h"
#include "engine/core/status.h"
#include "engine/core/token_stream.h"
#include "engine/core/types.h"
#include "engine/kvcrush/params.h"
#include "engine/model/model_config.h"
#include "engine/sampling/params.h"

namespace kvcrush {

struct ModelFile;

// Whether weight_dtype "auto" keeps the weights of this model quantised on the CPU.
bool keeps_weights_quantized(const ModelFile& model);

struct EngineConfig {
  // "cpu", "cuda:N", or "auto": a GPU where this build serves one and there is one, else the CPU.
  std::string device = "cpu";
  // Of weights and activations. On a GPU "bf16", "f16" or "f32"; "auto" is bf16. On the CPU "f32", or "auto":
  // quantised weights stay as the file has them and meet activations in int8, others are f32.
  std::string weight_dtype = "auto";
  std::string kv_dtype = "f32";       // "f32", "bf16", "f16", "int8" or "int4", where a request names none
  std::uint64_t kv_memory_bytes = 0;  // bytes of the KV block pool; must hold at least one block per layer
  bool fills_gpu = false;             // on a GPU the pool takes what weights and workspace leave, instead
  int max_batch_tokens = 512;         // tokens of one step, prefill and decode together
  int max_running_sequences = 64;     // sequences that hold blocks at a time
  int max_waiting_sequences = 256;    // queue bound; past it submit() answers RESOURCE_EXHAUSTED
  int max_waiting_tokens = 1 << 20;   // the same, of prompt tokens that wait to be computed
  bool prefix_cache = true;           // prompts begin with what the pool still has of earlier ones
  std::uint64_t swap_memory_bytes =
      0;                       // host memory for caches of preempted sequences; 0: all are recomputed
  int max_context_tokens = 0;  // 0: the model's
  std::string faults;          // on purpose, see faults.h; empty: none
  int num_threads = 0;         // CPU threads for kernels; 0: all cores
  bool cuda_graphs = false;    // on a GPU: decode steps of a shape that came before start as one CUDA graph
};

// Resolves "auto" to "cpu" or "cuda:0". INVALID_ARGUMENT for anything else than "cpu", "cuda" and "cuda:N",
// and for CUDA in a build without it, or where there is no such GPU.
Result<std::string> resolve_device(const std::string& name);

// A checked request: produced by the server's request mapper, or by tests.
struct EngineRequest {
  std::string request_id;                 // not empty, unique among live requests
  std::vector<TokenId> prompt_token_ids;  // not empty, each in [0, vocab_size)
  SamplingParams sampling;                // validated
  // How the samples' caches are kept, validated: one entry for all of them, or one for each. Samples share
  // one prefill where the pool has room for it.
  std::vector<CachePolicy> cache_policies = {CachePolicy{}};
  int num_samples = 1;  // sample i uses sampling.seed + i; with a policy for each, all use sampling.seed
  // Not empty (then >= 2 tokens): nothing is sampled; each sample scores these tokens after the prompt and
  // yields one ScoreEvent. sampling.max_tokens is ignored.
  std::vector<TokenId> continuation_token_ids;
  // Who asks: tenants share the engine by weight (> 0), and a tenant's requests by priority, of which each
  // step doubles the share.
  std::string tenant;
  double tenant_weight = 1;
  int priority = 0;
  // When nobody waits for the answer any more: samples that have not ended end with kDeadline.
  std::optional<std::chrono::steady_clock::time_point> deadline;
  // Prompts meet in the prefix cache where tenant and salt are the same.
  std::string cache_salt;
  bool bypass_prefix_cache = false;  // neither begins with blocks of others nor leaves its own
  // Most drafts of one step by prompt lookup, [0, kMaxLookupTokens]; 0: none. They change no token. Not with
  // a policy that sums attention (h2o): its sums cannot forget a draft that was wrong.
  int lookup_tokens = 0;
  // Scores come with a comparison to the full cache in the engine's dtype; at most kMaxComparedTokens.
  bool compare_to_full = false;
};
inline constexpr int kMaxLookupTokens = 64;
// A comparison keeps the full cache's distributions of all these positions, 25 MB for a vocabulary of 49k.
inline constexpr int kMaxComparedTokens = 128;

struct EngineLimits {
  int max_context_tokens = 0;
  int block_size_tokens = 0;     // tokens of a block in the engine's kv_dtype
  std::int64_t block_bytes = 0;  // K and V of block_size_tokens in one layer
  std::int64_t num_blocks = 0;
  int max_cached_tokens = 0;  // tokens of one uncompressed sequence that fill the pool alone
};

struct SequenceStats {
  std::string request_id;
  int index = 0;
  std::string_view state;  // "waiting", "swapped", "prefill", "decode"
  int prompt_tokens = 0;
  int completion_tokens = 0;
  std::int64_t blocks = 0;
  double age_ms = 0;
  std::string tenant;
  int priority = 0;
};

struct EngineStats : EngineTotals {
  std::vector<SequenceStats> sequences;
};

class Engine {
 public:
  // Loads weights from `model`, allocates the pool and starts the loop thread. `observer` must outlive the
  // engine. Errors: INVALID_ARGUMENT naming the option that is wrong, RESOURCE_EXHAUSTED when memory cannot
  // be had.
  static Result<std::unique_ptr<Engine>> create(std::shared_ptr<const ModelFile> model,
                                                const EngineConfig& config, EngineObserver& observer);
  // Stops the loop; whatever still runs finishes with kAbort.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Queues the request's samples. Events of all samples arrive on `stream`, ending with one FinishEvent per
  // sample. Errors: INVALID_ARGUMENT (prompt and max_tokens can never fit context or pool), ALREADY_EXISTS
  // (request_id is live), RESOURCE_EXHAUSTED (queue full), DEADLINE_EXCEEDED (already), UNAVAILABLE
  // (draining).
  Status submit(EngineRequest request, std::shared_ptr<TokenStream> stream);

  // Ends every live sample of the request with `reason`; `index` picks one sample. NOT_FOUND: no live request
  // has this id. Thread-safe, returns at once; the FinishEvent follows and no TokenEvent comes after it.
  Status finish(const std::string& request_id, FinishReason reason, std::optional<int> index = std::nullopt);

  // Largest max_tokens this request may ask for: what context and pool leave. <= 0: the prompt itself does
  // not fit.
  int max_new_tokens(int num_prompt_tokens, const CachePolicy& policy) const;

  void begin_drain();                                 // submit() answers UNAVAILABLE from now on
  bool wait_idle(std::chrono::milliseconds timeout);  // true: nothing is running or waiting
  EngineStats stats() const;                          // a recent snapshot; never blocks the loop for long
  const EngineLimits& limits() const;
  const ModelConfig& model_config() const;

 private:
  class Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvcrush
