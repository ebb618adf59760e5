// What a decode step costs the host before a GPU can begin with it: following the sequences' block tables and
// describing the batch, [sequences]. The device's memory is the host's here; nothing is launched.
#include <ATen/ATen.h>
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <vector>

#include "engine/core/status.h"
#include "engine/gpu/gpu_batch.h"
#include "engine/kv_cache/kv_format.h"

namespace kvcrush {
namespace {

constexpr int kNumLayers = 32;
constexpr HeadLayout kHeads{.num_heads = 32, .num_kv_heads = 8, .head_dim = 128};
constexpr int kNumCached = 512;

class HostRuntime final : public GpuRuntime {
 public:
  at::Device device() const override { return at::kCPU; }
  void enter() override {}
  cuda::Stream stream() const override { return nullptr; }
  int num_processors() const override { return 132; }
  at::Tensor host_buffer(std::int64_t bytes) const override { return at::empty({bytes}, at::kByte); }
  void copy_to_device(void* /*target*/, const void* /*source*/, std::size_t /*bytes*/) override {}
  void mark(int /*mark*/) override {}
  void wait_for(int /*mark*/) override {}
  int note_time() override { return 0; }
  std::optional<double> seconds_between(int /*earlier*/, int /*later*/) override { return {}; }
  void give_back(int /*note*/) override {}
  void matmul(const at::Tensor& /*x*/, const at::Tensor& /*w*/, at::Tensor& /*out*/) override {}
  std::unique_ptr<GpuGraph> record(const std::function<void()>& /*work*/) override { return nullptr; }
  at::Tensor fetch(const at::Tensor& values) override { return values; }
  at::Tensor send(const at::Tensor& fetched) override { return fetched; }
  void wait_for_copies() override {}
  at::Tensor to_host(const at::Tensor& values) override { return values; }
};

// Sequences that decode, one new token each.
class Decodes {
 public:
  explicit Decodes(int count)
      : format_(make_kv_format(KvDtype::kF16, kHeads.head_dim)),
        pool_(count * kNumLayers * blocks_for(format_, 0, kNumCached + kMostSteps)) {
    for (int i = 0; i < count; ++i) {
      auto& sequence =
          sequences_.emplace_back(std::make_unique<Sequence>(SequenceCache(pool_, kNumLayers, format_)));
      sequence->id = static_cast<SequenceId>(i + 1);
      sequence->token_ids.assign(kNumCached, 1);
      sequence->num_prompt_tokens = kNumCached;
      KVCRUSH_CHECK(sequence->cache.try_extend(kNumCached - 1));
    }
  }

  StepPlan next() {
    StepPlan plan;
    for (const auto& sequence : sequences_) {
      sequence->token_ids.push_back(1);
      KVCRUSH_CHECK(sequence->cache.try_extend(1));
      ScheduledChunk& chunk = plan.chunks.emplace_back();
      chunk.sequence_id = sequence->id;
      chunk.sequence = sequence.get();
      chunk.first_token = sequence->num_tokens() - 1;
      chunk.num_tokens = 1;
      chunk.num_logit_rows = 1;
    }
    return plan;
  }

 private:
  static constexpr int kMostSteps = 4096;
  cpu::KvFormat format_;
  BlockPool pool_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
};

void BM_DescribeDecodes(benchmark::State& state) {
  HostRuntime runtime;
  Decodes decodes(static_cast<int>(state.range(0)));
  DeviceTables tables(runtime, kNumLayers);
  Staging staging(runtime);
  GpuBatchBuilder builder(kHeads, kNumLayers, /*has_windows=*/false);
  for (auto _ : state) {
    state.PauseTiming();
    const StepPlan plan = decodes.next();
    state.ResumeTiming();
    staging.start();
    for (const ScheduledChunk& chunk : plan.chunks) tables.follow(*chunk.sequence);
    benchmark::DoNotOptimize(builder.build(plan, runtime.num_processors(), tables, staging));
    tables.flush(staging);
    staging.upload();
  }
}
BENCHMARK(BM_DescribeDecodes)
    ->Arg(1)
    ->Arg(16)
    ->Arg(64)
    ->Arg(256)
    ->Iterations(500)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace kvcrush
