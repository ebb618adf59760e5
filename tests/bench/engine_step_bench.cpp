// What a decode step costs the engine beside the model: planning, taking tokens, reporting, telling clients.
// The model is one that gives every sequence the same token at once, [sequences].
#include <ATen/ATen.h>
#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/core/status.h"
#include "engine/engine_core.h"
#include "engine/kv_cache/kv_format.h"
#include "engine/loader/model_file.h"

namespace kvcrush {
namespace {

constexpr int kMaxNewTokens = 4096;
constexpr int kPromptTokens = 512;

ModelConfig config_of_8b() {
  ModelConfig config;
  config.num_layers = 32;
  config.num_heads = 32;
  config.num_kv_heads = 8;
  config.head_dim = 128;
  config.vocab_size = 128256;
  return config;
}

// Samples by itself, as a GPU's does, and takes no time.
class InstantExecutor final : public ModelExecutor {
 public:
  at::Tensor run(const StepPlan& /*plan*/) override { return at::empty({1}); }
  bool samples() const override { return true; }
  std::vector<SampleResult> sample(std::span<const SampleJob> jobs, const at::Tensor& /*logits*/) override {
    SampleResult token;
    token.token = 100;
    token.valid = true;
    return std::vector<SampleResult>(jobs.size(), token);
  }
  const std::vector<PruneReport>& fork_reports() const override { return fork_reports_; }
  PruneReport settle(Sequence& /*sequence*/, const Settling& /*settling*/) override { return {}; }
  void swap_out(SequenceId /*id*/, std::span<const BlockId> /*blocks*/) override {}
  void swap_in(SequenceId /*id*/, std::span<const BlockId> /*blocks*/) override {}
  void expect_children(SequenceId /*trunk*/, const ObservationNeeds& /*needs*/) override {}
  void forget(SequenceId /*id*/, bool /*for_good*/) override {}

 private:
  std::vector<PruneReport> fork_reports_;
};

void BM_DecodeSteps(benchmark::State& state) {
  const auto num_sequences = static_cast<int>(state.range(0));
  auto model = std::make_shared<ModelFile>();
  model->config = config_of_8b();
  const cpu::KvFormat format = make_kv_format(KvDtype::kF16, model->config.head_dim);
  EngineLimits limits;
  limits.max_context_tokens = kPromptTokens + kMaxNewTokens;
  limits.block_size_tokens = format.tail_tokens_per_block;
  limits.block_bytes = 1 << 16;
  limits.num_blocks = static_cast<std::int64_t>(num_sequences) * model->config.num_layers *
                      blocks_for(format, 0, limits.max_context_tokens);
  EngineConfig config;
  config.max_batch_tokens = kPromptTokens * num_sequences;
  config.max_running_sequences = num_sequences;
  EngineObserver observer;
  EngineCore core(model, config, limits, KvDtype::kF16, std::make_unique<InstantExecutor>(), observer);
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < num_sequences; ++i) {
    EngineRequest request;
    request.request_id = "request-" + std::to_string(i);
    request.prompt_token_ids.assign(kPromptTokens, i + 1);
    request.sampling.temperature = 0;
    request.sampling.max_tokens = kMaxNewTokens;
    streams.push_back(std::make_shared<TokenStream>());
    core.add(request, streams.back(), Clock::now());
  }
  core.step();
  for (auto _ : state) {
    core.step();
    for (OutgoingEvent& outgoing : core.take_events()) outgoing.stream->push(std::move(outgoing.event));
    state.PauseTiming();
    KVCRUSH_CHECK(core.totals().num_running == num_sequences);
    for (const auto& stream : streams) stream->take();
    state.ResumeTiming();
  }
}
BENCHMARK(BM_DecodeSteps)
    ->Arg(1)
    ->Arg(16)
    ->Arg(64)
    ->Arg(256)
    ->Iterations(1000)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace kvcrush
