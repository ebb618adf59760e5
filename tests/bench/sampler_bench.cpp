// Choosing one token of a vocabulary of 49,152: time per kind of request.
#include <benchmark/benchmark.h>

#include <chrono>
#include <random>
#include <vector>

#include "engine/sampling/sampler.h"

namespace kvcrush {
namespace {

constexpr int kVocabSize = 49152;

// Logits like a language model's: most far below the few that matter.
std::vector<float> model_like_logits() {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(kVocabSize);
  for (float& logit : logits) logit = normal(rng);
  for (int i = 0; i < 20; ++i)
    logits[static_cast<std::size_t>(i * 2111)] = 14.0f - 0.3f * static_cast<float>(i);
  return logits;
}

void sample(benchmark::State& state, const SamplingParams& params) {
  Sampler sampler(params, kVocabSize, 7);
  std::vector<TokenId> prompt(2000);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i * 23);
  sampler.observe_prompt(prompt);
  const std::vector<float> logits = model_like_logits();
  std::vector<float> row = logits;
  int step = 0;
  for (auto _ : state) {
    row.assign(logits.begin(),
               logits.end());  // a step has its logits new from the model: not part of choosing
    const auto start = std::chrono::steady_clock::now();
    benchmark::DoNotOptimize(sampler.sample(row, step++, {}));
    state.SetIterationTime(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
}

SamplingParams with(void (*change)(SamplingParams&)) {
  SamplingParams params;
  params.temperature = 0.8f;
  change(params);
  return params;
}

#define KVCRUSH_SAMPLE(name, change)                                       \
  BENCHMARK_CAPTURE(sample, name, with([](SamplingParams& p) { change; })) \
      ->UseManualTime()                                                    \
      ->Unit(benchmark::kMicrosecond)
KVCRUSH_SAMPLE(greedy, p.temperature = 0);
KVCRUSH_SAMPLE(temperature, p.top_k = 0);
KVCRUSH_SAMPLE(top_k_50, p.top_k = 50);
KVCRUSH_SAMPLE(top_p_0 .9, p.top_p = 0.9f);
KVCRUSH_SAMPLE(min_p_0 .05, p.min_p = 0.05f);
KVCRUSH_SAMPLE(penalties, p.repetition_penalty = 1.1f; p.presence_penalty = 0.1f; p.top_k = 50);
KVCRUSH_SAMPLE(logprobs_5, p.temperature = 0; p.num_logprobs = 5);

}  // namespace
}  // namespace kvcrush
