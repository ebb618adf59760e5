// Host code of selection: what a request's parameters mean for the kernels, and where their workspace lies.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "engine/core/status.h"
#include "engine/kernels/cuda/select.h"
#include "engine/kvcrush/kept_units.h"

namespace kvcrush::cuda {
namespace {

static_assert(kMaxPoolTaps >= kMaxPoolKernelTokens + 1);

constexpr std::size_t kAlignment = 256;

// As token_scores() has them: in double, then rounded.
void set_gaussian_weights(int kernel, float (&weights)[kMaxPoolTaps]) {
  std::array<double, kMaxPoolTaps> bell{};
  double total = 0.0;
  const int half = kernel / 2;
  for (int i = 0; i < kernel; ++i) {
    const double deviations = (i - half) / (kernel / 4.0);
    bell[static_cast<std::size_t>(i)] = std::exp(-0.5 * (deviations * deviations));
    total += bell[static_cast<std::size_t>(i)];
  }
  for (std::size_t i = 0; i < bell.size(); ++i) weights[i] = static_cast<float>(bell[i] / total);
}

void set_scores(const CompressionParams& params, int num_queries, SelectJob& job) {
  job.layer_weight = static_cast<float>(params.layer_weight);
  if (!reads_attention(params.policy)) {
    job.source = params.policy == BasePolicy::kStreaming ? ScoreSource::kSlots : ScoreSource::kKeys;
    return;
  }
  KVCRUSH_CHECK(params.pool_kernel_tokens >= 1 && params.pool_kernel_tokens <= kMaxPoolKernelTokens &&
                params.pool_kernel_tokens % 2 == 1);
  job.source = ScoreSource::kAttention;
  job.pool_kernel = params.pool_kernel_tokens;
  job.is_gaussian = params.pool_shape == PoolShape::kGaussian;
  if (job.is_gaussian) set_gaussian_weights(job.pool_kernel, job.pool_weights);
  job.value_norm = params.value_norm;
  if (params.policy != BasePolicy::kH2o) {
    KVCRUSH_CHECK(num_queries >= 1);
    job.divisor = static_cast<float>(num_queries);
  }
}

int num_bits(const SelectJob& job) {
  return job.num_heads / job.heads_per_bit;
}

// Takes a workspace piece by piece. Without one it only counts.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}

  template <class T>
  void take(T*& piece, std::int64_t count) {
    piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

SelectBuffers carve(const SelectJob& job, Carver& carver) {
  SelectBuffers buffers;
  if (job.num_candidates == 0) return buffers;
  const bool scored = job.num_representatives > 0;
  const std::int64_t row_keys = job.row_keys;
  carver.take(buffers.importance, job.num_sets * row_keys);
  carver.take(buffers.flags, job.num_sets * row_keys / 32);
  carver.take(buffers.cuts, job.num_sets + (scored ? job.num_heads : 0));
  if (job.sliding_window.tokens > 0) carver.take(buffers.unseen, job.num_heads);
  if (!scored) return buffers;
  carver.take(buffers.scores, job.num_heads * row_keys);
  carver.take(buffers.bit_counts, num_bits(job));
  if (job.pick == RepresentativePick::kBest)
    carver.take(buffers.best, std::int64_t{job.num_sets} * job.num_representatives);
  return buffers;
}

void check_addresses(const SelectJob& job) {
  KVCRUSH_CHECK(job.kept_slots != nullptr);
  if (job.num_candidates == 0) return;
  KVCRUSH_CHECK(job.source != ScoreSource::kAttention || job.probability_sums != nullptr);
  KVCRUSH_CHECK(job.source != ScoreSource::kKeys || job.key_scores != nullptr);
  KVCRUSH_CHECK(!job.value_norm || job.value_norms != nullptr);
}

}  // namespace

bool selects_on_device(const CompressionParams& params) {
  return params.granularity == Granularity::kToken;
}

SelectJob make_select_job(const CompressionParams& params, int budget_tokens, int layer,
                          const SelectSizes& sizes) {
  KVCRUSH_CHECK(selects_on_device(params));
  KVCRUSH_CHECK(sizes.num_heads >= 1 && sizes.num_kv_heads >= 1 && sizes.num_tokens >= 0 &&
                sizes.num_heads % sizes.num_kv_heads == 0);
  KVCRUSH_CHECK(budget_tokens >= min_budget_tokens(params));
  SelectJob job;
  job.num_heads = sizes.num_heads;
  job.num_kv_heads = sizes.num_kv_heads;
  job.num_tokens = sizes.num_tokens;
  job.num_sets = params.token_sets == TokenSets::kPerKvHead ? sizes.num_kv_heads : 1;
  job.num_kept = std::min(sizes.num_tokens, budget_tokens);
  job.num_sink_tokens = params.num_sink_tokens;
  job.window_tokens = params.window_tokens;
  job.sliding_window = sizes.sliding_window;
  if (sizes.num_tokens <= budget_tokens) return job;
  const int num_fixed = params.num_sink_tokens + params.window_tokens;
  job.num_candidates = sizes.num_tokens - num_fixed;
  job.row_keys = (job.num_candidates + kSelectRowPadding - 1) / kSelectRowPadding * kSelectRowPadding;
  const FreeUnits free = share_out(budget_tokens - num_fixed, params.representative_share);
  job.num_important = free.num_important;
  job.num_representatives = free.num_representatives;
  if (params.signature_heads == SignatureHeads::kKv) job.heads_per_bit = sizes.num_heads / sizes.num_kv_heads;
  job.anchor = params.anchor;
  job.pick = params.pick;
  job.anchor_seed = params.seed + (static_cast<std::uint64_t>(layer) << 32);
  set_scores(params, sizes.num_queries, job);
  return job;
}

std::size_t select_workspace_bytes(std::span<const SelectJob> jobs) {
  Carver carver(nullptr);
  for (const SelectJob& job : jobs) carve(job, carver);
  return carver.used();
}

SelectLaunch prepare_select(std::span<SelectJob> jobs, std::byte* workspace) {
  SelectLaunch shape{.num_jobs = static_cast<int>(jobs.size())};
  Carver carver(workspace);
  for (SelectJob& job : jobs) {
    check_addresses(job);
    job.buffers = carve(job, carver);
    shape.num_sets = std::max(shape.num_sets, job.num_sets);
    shape.row_keys = std::max(shape.row_keys, job.row_keys);
    if (job.buffers.unseen != nullptr)
      shape.num_windowed_heads = std::max(shape.num_windowed_heads, job.num_heads);
    if (job.num_representatives == 0) continue;
    shape.num_scored_heads = std::max(shape.num_scored_heads, job.num_heads);
    shape.signature_bits = std::max(shape.signature_bits, num_bits(job) / job.num_sets);
  }
  KVCRUSH_CHECK(workspace != nullptr || carver.used() == 0);
  return shape;
}

}  // namespace kvcrush::cuda
