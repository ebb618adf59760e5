// Choosing the next tokens of a batch on the GPU: what Sampler::sample() does (engine/sampling/sampler.h),
// so that only tokens and the log-probabilities that were asked for go to the host.
#pragma once

#include <cstdint>

#include "engine/core/types.h"
#include "engine/kernels/cpu/kv_layout.h"
#include "engine/kernels/cuda/stream.h"

namespace kvcrush::cuda {

inline constexpr int kMaxSampledVocab = 1 << 18;
inline constexpr int kMaxTopLogprobs = 20;

// A slot of a sequence's table of the tokens it has seen, an open-addressing hash table on the device. Zeroed
// memory is an empty table.
struct SeenToken {
  std::int32_t key = 0;           // token + 1; 0: free
  std::int32_t output_count = 0;  // occurrences in the output; 0 for one seen in the prompt alone
  float raw_logit = 0;            // scratch of sample_tokens(): the token's logit before penalties
};
struct SeenTokens {
  SeenToken* slots = nullptr;  // [capacity]
  int capacity = 0;            // 0: no table
};
// Slots for a sequence that sees at most `max_distinct` different tokens; a full table takes no more.
int seen_tokens_capacity(int max_distinct);

// Tokens that a sequence has come to see, once per token of its prompt and of its output, as Sampler's
// observe_prompt() and observe_output(). Negative ids are ignored. Which slot a token gets may depend on
// timing, what the table holds does not.
struct SeenUpdate {
  SeenTokens table;
  const TokenId* tokens = nullptr;  // [num_tokens], on the device; what sample_tokens() wrote, for one
  int num_tokens = 0;
  bool in_output = false;
};
// updates: [num_updates], on the device. max_tokens: of the largest of them.
void observe_tokens(const SeenUpdate* updates, int num_updates, int max_tokens, Stream stream);

// How one row is sampled; ranges as in SamplingParams.
struct SampleRow {
  float temperature = 1;  // 0: greedy
  int top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  int num_logprobs = -1;         // [0, kMaxTopLogprobs]; -1: no log-probabilities
  std::uint64_t stream_key = 0;  // splitmix64(seed of the sample)
  int step = 0;                  // number of the token in the output
  int num_banned = 0;
  const TokenId* banned = nullptr;  // [num_banned], any ids; those outside the vocabulary are ignored
  SeenTokens seen;                  // read where a penalty is on
};

// A model that computes NaN gives nothing but NaN: the answer says so beside the token. Its own inverse.
KVCRUSH_LAYOUT constexpr TokenId no_number(TokenId token) {
  return -1 - token;
}

struct SampleCall {
  float* logits = nullptr;         // [num_rows, logits_stride]; penalties and bans overwrite some
  std::int64_t logits_stride = 0;  // multiples of 4 are faster, as are 16-byte aligned logits
  int vocab_size = 0;              // [1, kMaxSampledVocab]
  int num_rows = 0;
  const SampleRow* rows = nullptr;  // [num_rows]
  TokenId* tokens = nullptr;        // [num_rows]; no_number(token) where no logit is a number above -infinity
  // Natural, of the logits as given. May be null where no row asks for any.
  float* logprobs = nullptr;      // [num_rows]: of the token; of rows that ask
  TokenId* top_tokens = nullptr;  // [num_rows, kMaxTopLogprobs]: likeliest first, lower id first on ties;
                                  // min(num_logprobs, vocab_size) are written
  float* top_logprobs = nullptr;  // [num_rows, kMaxTopLogprobs]
};
// The same tokens every time, and the CPU's but where a draw falls within rounding error of a boundary
// between two tokens (greedy: always the CPU's). One launch.
void sample_tokens(const SampleCall& call, Stream stream);

}  // namespace kvcrush::cuda
