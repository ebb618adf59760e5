// What plan_layer() (engine/kvcrush/prune_plan.h) does, on the GPU: from readings of the cache to the slots
// that stay, the same ones to the last, for many layers of many sequences at once and without waiting for the
// GPU. Token granularity alone. Blocks of tokens are a comparison mode that stays with plan_layer().
//
// A job is one layer of one sequence. On the host:
//   jobs = make_select_job() of each, device addresses filled in
//   prepare_select(jobs, workspace of select_workspace_bytes(jobs))
//   copy jobs to the device; select_tokens()
//
// How many slots stay is known before: num_kept_tokens(), SelectJob::num_kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/kernels/cpu/kv_layout.h"
#include "engine/kernels/cuda/stream.h"
#include "engine/kvcrush/params.h"
#include "engine/kvcrush/top_selection.h"

namespace kvcrush::cuda {

enum class ScoreSource : std::int32_t { kAttention, kKeys, kSlots };

// Taps go four at a time: one more than kMaxPoolKernelTokens, and zero.
inline constexpr int kMaxPoolTaps = 64;

// Rows of keys are padded to so many, 16 bytes a lane of a warp.
inline constexpr int kSelectRowPadding = 128;

// Candidates before `end` are out of the next token's window: every one of them scores `score`, less than all
// others. One for each query head.
struct UnseenCandidates {
  std::int32_t end = 0;
  float score = 0;
};

// Intermediate results, on the device. Order keys are unsigned and compare as the floats they stand for;
// those of padding are 0, below every float's.
struct SelectBuffers {
  std::uint32_t* importance = nullptr;  // [num_sets, row_keys] order keys of what a token is worth
  std::uint32_t* flags = nullptr;       // [num_sets, row_keys / 32] a bit per candidate: it stays
  TopCut* cuts = nullptr;               // [num_sets], then [num_heads] if there are representatives
  UnseenCandidates* unseen = nullptr;   // [num_heads]; null where the layer has no window
  // The rest for representatives only.
  // [num_heads, row_keys] order keys of the scores, later in the first rows of each set its tokens'
  // signatures: bits 0..31 in the first row, 32..63 in the second, ...
  std::uint32_t* scores = nullptr;
  std::uint32_t* bit_counts = nullptr;  // [num_sets, bits] of evicted tokens, for the mean anchor
  // [num_sets, num_representatives] a group's best for RepresentativePick::kBest: key, complement of index
  unsigned long long* best = nullptr;
};

struct SelectJob {
  // Device addresses, from the caller. Only what the policy reads need be set, nothing but kept_slots where
  // all tokens stay. Values are finite.
  const float* probability_sums = nullptr;  // [num_heads, num_tokens] snapkv, h2o, tova
  const float* key_scores = nullptr;        // [num_kv_heads, num_tokens] knorm, keydiff
  const float* value_norms = nullptr;       // [num_kv_heads, num_tokens] value_norm
  std::int32_t* kept_slots = nullptr;       // out: [num_sets, num_kept], each row ascending

  // From make_select_job(). Candidates are slots num_sink_tokens .. num_tokens - window_tokens - 1.
  std::int32_t num_heads = 0;
  std::int32_t num_kv_heads = 0;
  std::int32_t num_tokens = 0;
  std::int32_t num_sets = 1;  // 1, or one per KV head
  std::int32_t num_kept = 0;
  std::int32_t num_candidates = 0;  // 0: all tokens stay
  std::int32_t row_keys = 0;        // num_candidates, padded
  std::int32_t num_sink_tokens = 0;
  std::int32_t window_tokens = 0;  // of observation
  cpu::SlidingWindow sliding_window;
  std::int32_t num_important = 0;
  std::int32_t num_representatives = 0;
  std::int32_t heads_per_bit = 1;  // of a signature
  ScoreSource source = ScoreSource::kAttention;
  std::int32_t pool_kernel = 1;
  bool is_gaussian = false;
  bool value_norm = false;
  float divisor = 1;  // of probability_sums
  float layer_weight = 0;
  AnchorKind anchor = AnchorKind::kMean;
  RepresentativePick pick = RepresentativePick::kFirst;
  std::uint64_t anchor_seed = 0;  // state of splitmix64 for bit 0 of the layer; bit i adds i
  float pool_weights[kMaxPoolTaps] = {};

  SelectBuffers buffers;  // from prepare_select()
};

struct SelectSizes {
  int num_heads = 0;  // query heads
  int num_kv_heads = 0;
  int num_tokens = 0;
  int num_queries = 1;  // that probability_sums were summed over, >= 1
  // The cache's, with device addresses. What no later query sees scores below everything else.
  cpu::SlidingWindow sliding_window = {};
};

// Largest over the jobs of a launch, so what the grids must hold. Serves every list of as many jobs whose
// sizes do not exceed it: a captured graph may be replayed with other jobs in the same place.
struct SelectLaunch {
  int num_jobs = 0;
  int num_sets = 0;
  int row_keys = 0;
  int num_scored_heads = 0;    // of jobs with representatives
  int signature_bits = 0;      // of their signatures
  int num_windowed_heads = 0;  // query heads of jobs with a sliding window
};

bool selects_on_device(const CompressionParams& params);

// Arguments as for plan_layer(), so window_params() in a layer with a sliding window;
// selects_on_device(params).
SelectJob make_select_job(const CompressionParams& params, int budget_tokens, int layer,
                          const SelectSizes& sizes);

// Device memory that the jobs of one launch take together. With representatives mostly num_heads * num_tokens
// floats a job, without them num_sets * num_tokens.
std::size_t select_workspace_bytes(std::span<const SelectJob> jobs);
// Shares the workspace out. It is at least 256-byte aligned and need not be cleared.
SelectLaunch prepare_select(std::span<SelectJob> jobs, std::byte* workspace);

// `jobs`: prepared, on the device, at least until the kernels have run. Throws std::runtime_error where a
// launch is refused.
void select_tokens(const SelectLaunch& shape, const SelectJob* jobs, Stream stream);

}  // namespace kvcrush::cuda
