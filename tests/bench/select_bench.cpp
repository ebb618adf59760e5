// Time of one layer's scores and selection: 8192 cached tokens down to 2048, log-normal values as attention
// has them.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstddef>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "engine/kvcrush/importance.h"
#include "engine/kvcrush/prune_plan.h"

namespace {

constexpr int kNumTokens = 8192;
constexpr int kBudgetTokens = 2048;
constexpr int kSinkTokens = 4;
constexpr int kWindowTokens = 32;

std::vector<float> log_normal(std::size_t count) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal(-8.0f, 3.0f);
  std::vector<float> values(count);
  for (float& value : values) value = std::exp(normal(generator));
  return values;
}

template <typename Select>
void run_selection(benchmark::State& state, Select& selector) {
  const int num_heads = static_cast<int>(state.range(0));
  constexpr int kNumCandidates = kNumTokens - kSinkTokens - kWindowTokens;
  const auto scores = log_normal(static_cast<std::size_t>(num_heads) * kNumCandidates);
  std::vector<float> importance(kNumCandidates);
  kvcrush::sum_over_heads(scores, num_heads, importance);
  const kvcrush::SelectionInput input{.importance = importance,
                                      .scores = scores,
                                      .num_heads = num_heads,
                                      .num_tokens = kNumTokens,
                                      .budget_tokens = kBudgetTokens,
                                      .num_sink_tokens = kSinkTokens,
                                      .window_tokens = kWindowTokens,
                                      .representative_share = static_cast<double>(state.range(1)) / 100.0};
  while (state.KeepRunning()) benchmark::DoNotOptimize(selector.select(input).data());
}

void BM_Select(benchmark::State& state) {
  kvcrush::Selector selector;
  run_selection(state, selector);
}
BENCHMARK(BM_Select)
    ->ArgNames({"heads", "share_percent"})
    ->ArgsProduct({{9, 32}, {0, 25}})
    ->Unit(benchmark::kMicrosecond);

void BM_SelectBlocks(benchmark::State& state) {
  kvcrush::BlockSelector selector;
  run_selection(state, selector);
}
BENCHMARK(BM_SelectBlocks)
    ->ArgNames({"heads", "share_percent"})
    ->ArgsProduct({{9, 32}, {0, 25}})
    ->Unit(benchmark::kMicrosecond);

const char* label_of(kvcrush::BasePolicy policy) {
  constexpr const char* kNames[] = {"snapkv", "h2o", "tova", "streaming", "knorm", "keydiff"};
  return kNames[static_cast<int>(policy)];
}

// Scores and selection with a preset, as the engine runs them for each layer.
void BM_PlanLayer(benchmark::State& state) {
  const auto policy = static_cast<kvcrush::BasePolicy>(state.range(0));
  const int num_heads = static_cast<int>(state.range(3));
  const int num_kv_heads = num_heads == 9 ? 3 : 8;
  const auto rows = log_normal(static_cast<std::size_t>(num_heads) * kNumTokens);
  kvcrush::CompressionParams params =
      kvcrush::preset_params(static_cast<kvcrush::Preset>(state.range(1)), policy);
  params.granularity = static_cast<kvcrush::Granularity>(state.range(2));
  const kvcrush::LayerObservation observation{
      .num_heads = num_heads,
      .num_kv_heads = num_kv_heads,
      .num_tokens = kNumTokens,
      .probability_sums = rows,
      .num_queries = policy == kvcrush::BasePolicy::kTova ? 1 : params.observed_queries,
      .key_scores = std::span<const float>(rows).first(static_cast<std::size_t>(num_kv_heads) * kNumTokens),
      .value_norms = rows};
  kvcrush::PruneScratch scratch;
  kvcrush::LayerPrunePlan plan;
  while (state.KeepRunning()) {
    kvcrush::plan_layer(params, kBudgetTokens, 0, observation, scratch, plan);
    benchmark::DoNotOptimize(plan.kept_slots.data());
  }
  const std::string preset = state.range(1) == 0 ? "default" : "paper";
  state.SetLabel(std::string(label_of(policy)) + ", " + preset);
}
BENCHMARK(BM_PlanLayer)
    ->ArgNames({"policy", "preset", "block", "heads"})
    ->ArgsProduct({benchmark::CreateDenseRange(0, 5, 1), {0, 1}, {0, 1}, {9, 32}})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
