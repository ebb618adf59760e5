// One block samples one row. Passes over the row's logits in global memory, penalties and bans aside (they
// touch their own tokens only):
//   greedy                                  1
//   no truncation, or min_p alone           2 and 1/32: largest logit; mass of the warps' parts; of one part
//   top_k up to half the threads, top_p     2: largest logit; all mass, and the likeliest tokens into a list
//     that few tokens reach                    in shared memory, which decides the rest
//   other top_k and top_p                   3 to fill the bins, 1 each for top_k, top_p, min_p and the draw
//   log-probabilities                       2 more; 1 where there are no penalties or bans
// and 2 each time that a bin has too many tokens to compare with each other: many equal logits make it so.
#include "engine/core/status.h"
#include "engine/kernels/cuda/launch.h"
#include "engine/kernels/cuda/sampling_draw.cuh"
#include "engine/kernels/cuda/sampling_seen.cuh"

namespace kvcrush::cuda {

namespace sampling {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kObserveThreads = 128;
static_assert(sizeof(SampleShared) <= 48 << 10);  // what any card gives a block

__device__ int lowest_allowed(const SampleRow& p, int vocab_size, SampleShared& s) {
  for (int first = 0; first < vocab_size; first += num_threads()) {
    const int token = first + thread_index();
    bool allowed = token < vocab_size;
    for (int i = 0; i < p.num_banned && allowed; ++i) allowed = p.banned[i] != token;
    Word best[1] = {allowed ? static_cast<Word>(vocab_size - token) : 0};
    block_max(best, s);
    if (best[0] > 0) return vocab_size - static_cast<int>(best[0]);
  }
  return 0;
}

__device__ __forceinline__ float log_probability(float logit, double log_sum) {
  const double difference = static_cast<double>(logit) - log_sum;
  if (difference == difference) return static_cast<float>(difference);
  return logit > 0.0F ? 0.0F : minus_infinity();
}

// The `count` likeliest in order.
__device__ void write_top(const Tokens& tokens, const SampleCall& call, int count, SampleShared& s) {
  fill_bins(tokens, s);
  const Rank least = find(tokens, {static_cast<Word>(count), false}, s).rank;
  if (thread_index() == 0) s.num_members = 0;
  __syncthreads();
  tokens.visit([&](float, Rank rank, Mass) {
    if (rank >= least) s.members[atomicAdd(&s.num_members, 1)] = rank;
  });
  __syncthreads();
  if (thread_index() >= count) return;
  const Rank rank = s.members[thread_index()];
  int place = 0;
  for (int i = 0; i < count; ++i) place += s.members[i] > rank ? 1 : 0;
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kMaxTopLogprobs + place;
  call.top_tokens[at] = id_of(rank);
  call.top_logprobs[at] = log_probability(logit_of(rank), s.log_sum);
}

// Writes the row's likeliest tokens and leaves log(sum(exp(logits))) in s.log_sum.
__device__ void describe(const SampleCall& call, const LogitsRow& row, const Extremes& extremes,
                         int num_logprobs, SampleShared& s) {
  Tokens tokens{row, s, Weights{extremes.max, kLog2E, true},
                bins_over(extremes.max, extremes.max - extremes.low)};
  const int count = num_logprobs < row.vocab_size ? num_logprobs : row.vocab_size;
  const RowMass mass = list_likeliest(tokens, extremes.own_max, count > 0 ? count : 1, s);
  if (thread_index() == 0) {
    s.log_sum = static_cast<double>(extremes.max);
    if (fabsf(extremes.max) <= kLargestFinite)
      s.log_sum += log(static_cast<double>(mass.all) / static_cast<double>(kMassUnits));
  }
  if (count == 0) return;
  tokens.listed = s.num_listed >= count && s.num_listed <= kMaxListed;
  write_top(tokens, call, count, s);
}

__global__ void __launch_bounds__(kMaxThreads) sample_kernel(SampleCall call) {
  SampleShared& s = *reinterpret_cast<SampleShared*>(dynamic_shared());
  const SampleRow& p = call.rows[blockIdx.x];
  float* logits = call.logits + static_cast<std::int64_t>(blockIdx.x) * call.logits_stride;
  const LogitsRow row{logits, call.vocab_size};
  const bool asks = p.num_logprobs >= 0;
  const bool changes = p.num_banned > 0 || has_penalties(p);
  if (changes && !asks) change_logits(p, row);
  Extremes extremes = scan(row, s);
  if (asks) {
    if (thread_index() == 0) s.raw_logit_of_0 = logits[0];
    describe(call, row, extremes, p.num_logprobs, s);
    if (changes) {
      change_logits(p, row);
      extremes = scan(row, s);
    }
  }
  int token = extremes.id;
  if (extremes.max == minus_infinity()) {
    token = lowest_allowed(p, row.vocab_size, s);
  } else if (p.temperature != 0.0F) {
    token = draw_token(p, row, extremes, s);
  }
  if (thread_index() != 0) return;
  call.tokens[blockIdx.x] = extremes.max == minus_infinity() ? no_number(token) : token;
  if (asks)
    call.logprobs[blockIdx.x] = log_probability(raw_logit(p, row, token, s.raw_logit_of_0), s.log_sum);
}

// Grid: updates, kObserveThreads of their tokens.
__global__ void __launch_bounds__(kObserveThreads) observe_kernel(const SeenUpdate* updates) {
  const SeenUpdate& update = updates[blockIdx.x];
  const int index = static_cast<int>(blockIdx.y) * kObserveThreads + thread_index();
  if (index >= update.num_tokens || update.tokens[index] < 0) return;
  const int token = update.tokens[index];
  int i = first_slot(update.table, token);
  for (int n = 0; n < update.table.capacity; ++n) {
    SeenToken& seen = update.table.slots[i];
    const int key = atomicCAS(&seen.key, 0, token + 1);
    if (key == 0 || key == token + 1) {
      if (update.in_output) atomicAdd(&seen.output_count, 1);
      return;
    }
    i = i + 1 < update.table.capacity ? i + 1 : 0;
  }
}

// Enough for 16 tokens a thread: one round of loads. At least two warps, or draw_by_id() divides nothing.
int sample_threads(int vocab_size) {
  int threads = 2 * kWarpLanes;
  while (threads < kMaxThreads && threads * 16 < vocab_size) threads *= 2;
  return threads;
}

}  // namespace
}  // namespace sampling

int seen_tokens_capacity(int max_distinct) {
  return max_distinct + max_distinct / 2 + 1;
}

void observe_tokens(const SeenUpdate* updates, int num_updates, int max_tokens, Stream stream) {
  if (num_updates == 0 || max_tokens == 0) return;
  const auto chunks =
      static_cast<unsigned>((max_tokens + sampling::kObserveThreads - 1) / sampling::kObserveThreads);
  launch<sampling::observe_kernel>(
      LaunchShape{dim3{static_cast<unsigned>(num_updates), chunks}, dim3{sampling::kObserveThreads}}, stream,
      updates);
}

void sample_tokens(const SampleCall& call, Stream stream) {
  KVCRUSH_CHECK(call.vocab_size >= 1 && call.vocab_size <= kMaxSampledVocab);
  if (call.num_rows == 0) return;
  const auto threads = static_cast<unsigned>(sampling::sample_threads(call.vocab_size));
  launch<sampling::sample_kernel>(
      LaunchShape{dim3{static_cast<unsigned>(call.num_rows)}, dim3{threads}, sizeof(sampling::SampleShared)},
      stream, call);
}

}  // namespace kvcrush::cuda
