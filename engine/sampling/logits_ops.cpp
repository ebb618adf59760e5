#include "engine/sampling/logits_ops.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "engine/kernels/cpu/cpu_kernels.h"

namespace kvcrush {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

std::size_t to_size(TokenId id) {
  return static_cast<std::size_t>(id);
}

struct Candidate {
  float logit = 0.0f;  // not NaN
  TokenId token = 0;
};

bool more_likely(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

bool less_likely(const Candidate& a, const Candidate& b) {
  return more_likely(b, a);
}

float without_nan(float logit) {
  return std::isnan(logit) ? kNegativeInfinity : logit;
}

// Scratch of the calling thread: a vocabulary's worth for every sequence would not be small.
std::vector<Candidate>& thread_candidates() {
  thread_local std::vector<Candidate> candidates;
  candidates.clear();
  return candidates;
}

// The `count` likeliest, likeliest first. One comparison for nearly every logit as long as `count` is small.
const std::vector<Candidate>& rank_likeliest(std::span<const float> logits, std::size_t count) {
  std::vector<Candidate>& ranked = thread_candidates();
  const std::size_t num_ranked = std::min(count, logits.size());
  for (std::size_t i = 0; i < num_ranked; ++i)
    ranked.push_back({without_nan(logits[i]), static_cast<TokenId>(i)});
  std::make_heap(ranked.begin(), ranked.end(), more_likely);  // the least likely of them on top
  for (std::size_t i = num_ranked; i < logits.size(); ++i) {
    // Ids ascend, so an equal logit never replaces one that is in.
    if (!(logits[i] > ranked.front().logit)) continue;
    std::pop_heap(ranked.begin(), ranked.end(), more_likely);
    ranked.back() = {logits[i], static_cast<TokenId>(i)};
    std::push_heap(ranked.begin(), ranked.end(), more_likely);
  }
  std::sort_heap(ranked.begin(), ranked.end(), more_likely);
  return ranked;
}

struct Weighted {
  double weight = 0.0;
  TokenId token = 0;
};

std::vector<Weighted>& thread_ranked() {
  thread_local std::vector<Weighted> ranked;
  ranked.clear();
  return ranked;
}

// exp((logit - max) / temperature), 1 for the likeliest.
float relative_weight(float logit, float max_logit, float temperature) {
  return logit == max_logit ? 1.0f : std::exp((logit - max_logit) / temperature);
}

std::int64_t size_of(std::span<const float> logits) {
  return static_cast<std::int64_t>(logits.size());
}

float largest_logit(std::span<const float> logits) {
  return cpu::cpu_kernels().largest_logit(logits.data(), size_of(logits));
}

double sum_weights(std::span<const float> logits, float max_logit, float temperature) {
  return cpu::cpu_kernels().sum_weights(logits.data(), size_of(logits), max_logit, temperature);
}

// block_sums: of cpu::kWeightBlock weights each.
TokenId draw_by_id(std::span<const float> weights, std::span<const double> block_sums, double left) {
  constexpr std::size_t kBlock = cpu::kWeightBlock;
  std::size_t block = 0;
  while (block + 1 < block_sums.size() && left >= block_sums[block]) left -= block_sums[block++];
  // Rounding may leave a crumb: the last token with mass takes it.
  TokenId last = 0;
  for (std::size_t i = block * kBlock; i < weights.size(); ++i) {
    if (weights[i] <= 0.0f) continue;
    last = static_cast<TokenId>(i);
    left -= static_cast<double>(weights[i]);
    if (left < 0.0) return last;
  }
  if (last > 0) return last;
  for (std::size_t i = block * kBlock; i > 0; --i) {
    if (weights[i - 1] > 0.0f) return static_cast<TokenId>(i - 1);
  }
  return 0;
}

TokenId draw_ranked(std::span<const Weighted> ranked, double uniform) {
  double left = 0.0;
  for (const Weighted& entry : ranked) left += entry.weight;
  left *= uniform;
  TokenId last = ranked.front().token;
  for (const Weighted& entry : ranked) {
    if (entry.weight <= 0.0) break;
    last = entry.token;
    left -= entry.weight;
    if (left < 0.0) break;
  }
  return last;
}

// Drops the least likely entries of `ranked` (likeliest first) that top_p and min_p leave out; the first
// always stays.
void cut_ranked(std::vector<Weighted>& ranked, const Truncation& truncation, double total) {
  const double wanted_mass = static_cast<double>(truncation.top_p) * total;
  const double least_weight = static_cast<double>(truncation.min_p) * ranked.front().weight;
  double mass = ranked.front().weight;
  std::size_t num_kept = 1;
  while (num_kept < ranked.size() && mass < wanted_mass && ranked[num_kept].weight >= least_weight) {
    mass += ranked[num_kept++].weight;
  }
  ranked.resize(num_kept);
}

TokenId draw_top_k(std::span<const float> logits, float max_logit, float temperature,
                   const Truncation& truncation, double uniform) {
  std::vector<Weighted>& ranked = thread_ranked();
  double total = 0.0;
  for (const Candidate& next : rank_likeliest(logits, static_cast<std::size_t>(truncation.top_k))) {
    ranked.push_back({static_cast<double>(relative_weight(next.logit, max_logit, temperature)), next.token});
    total += ranked.back().weight;
  }
  cut_ranked(ranked, truncation, total);
  return draw_ranked(ranked, uniform);
}

// Appends to `ranked` the likeliest tokens of at least `least_weight` until their weights reach
// `wanted_mass`; whether they do.
bool rank_until_mass(std::span<const float> logits, float max_logit, float temperature, double least_weight,
                     double wanted_mass, std::vector<Weighted>& ranked) {
  constexpr double kRounding = 1e-3;
  const auto least_logit =
      static_cast<float>(static_cast<double>(max_logit) +
                         static_cast<double>(temperature) * (std::log(least_weight) - kRounding));
  std::vector<Candidate>& heap = thread_candidates();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] >= least_logit) heap.push_back({logits[i], static_cast<TokenId>(i)});
  }
  // A heap gives them in order without sorting what is not needed.
  std::make_heap(heap.begin(), heap.end(), less_likely);
  double mass = 0.0;
  while (!heap.empty() && (ranked.empty() || mass < wanted_mass)) {
    std::pop_heap(heap.begin(), heap.end(), less_likely);
    const Candidate& next = heap.back();
    ranked.push_back({static_cast<double>(relative_weight(next.logit, max_logit, temperature)), next.token});
    mass += ranked.back().weight;
    heap.pop_back();
  }
  return mass >= wanted_mass;
}

TokenId draw_top_p(std::span<const float> logits, float max_logit, float temperature,
                   const Truncation& truncation, double uniform) {
  const double total = sum_weights(logits, max_logit, temperature);
  const double wanted_mass = static_cast<double>(truncation.top_p) * total;
  // All tokens lighter than this weigh less together than what top_p leaves out: none of them is wanted, and
  // usually none of those a little heavier.
  const double least_weight = (total - wanted_mass) / static_cast<double>(logits.size());
  constexpr double kUsuallyEnough = 64.0;
  std::vector<Weighted>& ranked = thread_ranked();
  if (!rank_until_mass(logits, max_logit, temperature, std::min(1.0, kUsuallyEnough * least_weight),
                       wanted_mass, ranked)) {
    ranked.clear();
    rank_until_mass(logits, max_logit, temperature, least_weight, wanted_mass, ranked);
  }
  cut_ranked(ranked, truncation, total);
  return draw_ranked(ranked, uniform);
}

}  // namespace

void apply_penalties(const Penalties& penalties, const OutputCounts& output_counts, std::span<float> logits) {
  for (const auto& [token, count] : output_counts) {
    float& logit = logits[to_size(token)];
    logit = logit > 0.0f ? logit / penalties.repetition : logit * penalties.repetition;
    if (count > 0) logit -= penalties.presence + penalties.frequency * static_cast<float>(count);
  }
}

void ban_tokens(std::span<const TokenId> banned, std::span<float> logits) {
  for (const TokenId token : banned) {
    if (token >= 0 && to_size(token) < logits.size()) logits[to_size(token)] = kNegativeInfinity;
  }
}

bool has_nan(std::span<const float> logits) {
  std::uint32_t found = 0;  // no way out of the loop, so that it runs along vectors
  for (const float logit : logits) found |= static_cast<std::uint32_t>(logit != logit);
  return found != 0;
}

TokenId argmax(std::span<const float> logits, std::span<const TokenId> banned) {
  const float largest = largest_logit(logits);
  if (largest > kNegativeInfinity)
    return static_cast<TokenId>(std::find(logits.begin(), logits.end(), largest) - logits.begin());
  for (TokenId token = 0; to_size(token) < logits.size(); ++token) {
    if (std::find(banned.begin(), banned.end(), token) == banned.end()) return token;
  }
  return 0;
}

double log_sum_exp(std::span<const float> logits) {
  const float max_logit = largest_logit(logits);
  if (std::isinf(max_logit)) return static_cast<double>(max_logit);
  return static_cast<double>(max_logit) + std::log(sum_weights(logits, max_logit, 1.0f));
}

float log_probability(float logit, double log_sum) {
  const double difference = static_cast<double>(logit) - log_sum;
  if (!std::isnan(difference)) return static_cast<float>(difference);
  return logit > 0.0f ? 0.0f : kNegativeInfinity;  // inf - inf: certain, or as impossible as everything else
}

std::vector<LogprobEntry> top_logprobs(std::span<const float> logits, double log_sum, int count) {
  std::vector<LogprobEntry> entries;
  if (count <= 0) return entries;
  entries.reserve(static_cast<std::size_t>(count));
  for (const Candidate& next : rank_likeliest(logits, static_cast<std::size_t>(count))) {
    entries.push_back({next.token, log_probability(next.logit, log_sum)});
  }
  return entries;
}

TokenId draw_token(std::span<float> logits, float temperature, const Truncation& truncation, double uniform,
                   std::span<const TokenId> banned) {
  const TokenId likeliest = argmax(logits, banned);
  const float max_logit = logits[to_size(likeliest)];
  if (std::isnan(max_logit) || max_logit == kNegativeInfinity) return likeliest;
  const bool has_top_k = truncation.top_k > 0 && static_cast<std::size_t>(truncation.top_k) < logits.size();
  if (has_top_k) return draw_top_k(logits, max_logit, temperature, truncation, uniform);
  if (truncation.top_p < 1.0f) return draw_top_p(logits, max_logit, temperature, truncation, uniform);
  thread_local std::vector<double> block_sums;
  block_sums.resize((logits.size() + cpu::kWeightBlock - 1) / cpu::kWeightBlock);
  const double total = cpu::cpu_kernels().to_weights(logits.data(), size_of(logits), max_logit, temperature,
                                                     truncation.min_p, block_sums.data());
  return draw_by_id(logits, block_sums, uniform * total);
}

}  // namespace kvcrush
