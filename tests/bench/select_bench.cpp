// Time of one layer's selection: 8192 cached tokens down to 2048, log-normal scores as attention has them.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

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

void BM_Select(benchmark::State& state) {
  const int num_heads = static_cast<int>(state.range(0));
  constexpr int kNumCandidates = kNumTokens - kSinkTokens - kWindowTokens;
  const auto scores = log_normal(static_cast<std::size_t>(num_heads) * kNumCandidates);
  const kvcrush::SelectionInput input{.scores = scores,
                                      .num_heads = num_heads,
                                      .num_tokens = kNumTokens,
                                      .budget_tokens = kBudgetTokens,
                                      .num_sink_tokens = kSinkTokens,
                                      .window_tokens = kWindowTokens,
                                      .representative_share = static_cast<double>(state.range(1)) / 100.0};
  kvcrush::Selector selector;
  while (state.KeepRunning()) benchmark::DoNotOptimize(selector.select(input).data());
}
BENCHMARK(BM_Select)
    ->ArgNames({"heads", "share_percent"})
    ->ArgsProduct({{9, 32}, {0, 25}})
    ->Unit(benchmark::kMicrosecond);

// Scores and selection, as the engine runs them for each layer.
void BM_PlanLayer(benchmark::State& state) {
  const int num_heads = static_cast<int>(state.range(0));
  const int num_kv_heads = num_heads == 9 ? 3 : 8;
  const auto sums = log_normal(static_cast<std::size_t>(num_heads) * kNumTokens);
  kvcrush::CompressionParams params;
  params.budget_tokens = kBudgetTokens;
  params.token_sets = state.range(1) == 0 ? kvcrush::TokenSets::kPerLayer : kvcrush::TokenSets::kPerKvHead;
  kvcrush::PruneScratch scratch;
  kvcrush::LayerPrunePlan plan;
  while (state.KeepRunning()) {
    kvcrush::plan_layer(params, kBudgetTokens, 0, sums, kWindowTokens, num_heads, num_kv_heads, kNumTokens,
                        scratch, plan);
    benchmark::DoNotOptimize(plan.kept_slots.data());
  }
}
BENCHMARK(BM_PlanLayer)
    ->ArgNames({"heads", "per_kv_head"})
    ->ArgsProduct({{9, 32}, {0, 1}})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
