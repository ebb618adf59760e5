// The whole engine on this machine's GPU with random weights of Llama-3-8B's shape: decode steps against the
// roofline (weights and KV bytes over the copy bandwidth), KVCrush's share of a request, and what a fixed KV
// memory serves with and without it. Prints a Markdown table and writes JSON.
#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/gpu/cuda_backend.h"
#include "engine/gpu/gpu_runner.h"
#include "engine/kernels/cuda/cuda_kernels.h"
#include "tests/bench/bench_requests.h"
#include "tests/gpu/gpu_timer.h"

namespace kvcrush {
namespace {

using bench::make_request;
using bench::run_one;
using bench::Waiter;

ModelConfig llama_8b() {
  ModelConfig config;
  config.name = "random 8B";
  config.architecture = "llama";
  config.num_layers = 32;
  config.hidden_size = 4096;
  config.intermediate_size = 14336;
  config.num_heads = 32;
  config.num_kv_heads = 8;
  config.head_dim = 128;
  config.vocab_size = 128256;
  config.max_context_tokens = 40960;
  return config;
}

GpuWeights random_weights(const ModelConfig& config, int max_context_tokens) {
  const auto options = at::TensorOptions(at::kBFloat16).device(at::kCUDA);
  const auto matrix = [&](std::int64_t rows, std::int64_t columns) {
    return at::randn({rows, columns}, options) / std::sqrt(static_cast<double>(columns));
  };
  const auto ones = [&](std::int64_t count) { return at::ones({count}, options.dtype(at::kFloat)); };
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t heads = std::int64_t{config.head_dim} * config.num_heads;
  const std::int64_t kv_heads = std::int64_t{config.head_dim} * config.num_kv_heads;
  GpuWeights weights;
  weights.embedding = at::randn({config.vocab_size, hidden}, options);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    GpuLayerWeights& one = weights.layers.emplace_back();
    one.input_norm = ones(hidden);
    one.qkv = matrix(heads + 2 * kv_heads, hidden);
    one.output = matrix(hidden, heads);
    one.mlp_norm = ones(hidden);
    one.gate_up = matrix(2 * std::int64_t{config.intermediate_size}, hidden);
    one.down = matrix(hidden, config.intermediate_size);
  }
  weights.final_norm = ones(hidden);
  weights.lm_head = matrix(config.vocab_size, hidden);
  weights.rope_table = at::rand({max_context_tokens, config.head_dim}, options.dtype(at::kFloat));
  return weights;
}

class RandomBackend final : public GpuBackend {
 public:
  std::uint64_t free_bytes(const std::string& device) const override {
    return cuda_backend().free_bytes(device);
  }
  std::unique_ptr<ModelExecutor> make_executor(const GpuExecutorSpec& spec) const override {
    auto runtime = make_cuda_runtime(spec.device);  // before the weights, which come on its stream
    GpuWeights weights = random_weights(spec.model->config, spec.max_context_tokens);
    return std::make_unique<GpuRunner>(spec, std::move(weights), std::move(runtime));
  }
};

class Bench {
 public:
  Bench(std::string json_path, bool cuda_graphs)
      : json_path_(std::move(json_path)), cuda_graphs_(cuda_graphs), model_(std::make_shared<ModelFile>()) {
    model_->config = llama_8b();
    const at::Tensor from =
        at::zeros({std::int64_t{1} << 30}, at::TensorOptions(at::kByte).device(at::kCUDA));
    at::Tensor to = at::empty_like(from);
    copy_gb_per_s_ =
        2.0 * static_cast<double>(from.numel()) / bench::median_ms([&] { to.copy_(from); }) / 1e6;
    const ModelConfig& c = model_->config;
    const double layer = 2.0 * c.hidden_size * c.head_dim * (c.num_heads + c.num_kv_heads) +
                         3.0 * c.hidden_size * c.intermediate_size;
    weight_bytes_ = 2 * (layer * c.num_layers + static_cast<double>(c.hidden_size) * c.vocab_size);
    kv_token_bytes_ = 2.0 * 2 * c.num_kv_heads * c.head_dim * c.num_layers;
  }

  // only_batch: the one decode step to measure, for a profiler; 0: everything.
  int run(int only_batch, int only_context) {
    std::printf("| what | value | target |\n|---|---|---|\n");
    add("copy bandwidth, GB/s", copy_gb_per_s_, 0);
    std::unique_ptr<Engine> engine = make_engine(std::int64_t{36} << 30);
    if (only_batch > 0) {
      measure_step(*engine, only_batch, only_context);
      return 0;
    }
    for (const auto& [batch, context] :
         std::vector<std::pair<int, int>>{{1, 1024}, {1, 32768}, {16, 4096}, {64, 2048}, {256, 512}})
      measure_step(*engine, batch, context);
    measure_share(*engine);
    engine.reset();
    measure_capacity();
    if (!json_path_.empty()) std::ofstream(json_path_) << rows_.dump(1) << "\n";
    return 0;
  }

 private:
  std::unique_ptr<Engine> make_engine(std::int64_t kv_bytes) {
    EngineConfig config;
    config.device = "cuda:0";
    config.kv_dtype = "f16";
    config.kv_memory_bytes = static_cast<std::uint64_t>(kv_bytes);
    config.max_batch_tokens = 2048;
    config.max_running_sequences = 512;
    config.max_waiting_sequences = 1024;
    config.cuda_graphs = cuda_graphs_;
    Result<std::unique_ptr<Engine>> engine = Engine::create(model_, config, observer_);
    if (engine.ok()) return std::move(engine).value();
    std::fprintf(stderr, "%s\n", engine.status().message().c_str());
    std::exit(1);
  }
  void add(const std::string& what, double value, double target) {
    std::printf("| %s | %.4g | %s |\n", what.c_str(), value,
                target > 0 ? (value >= target ? "reached" : "missed") : "");
    std::fflush(stdout);
    rows_.push_back({{"what", what}, {"value", value}, {"target", target}});
  }
  static double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
  }
  struct Together {
    double step_ms = 0;  // median between tokens of the sequence that came last
    int most_running = 0;
  };
  // `batch` sequences of `context` tokens at a time.
  Together run_together(Engine& engine, int batch, int context,
                        const std::optional<CompressionParams>& params) {
    constexpr int kSteps = 40;
    std::vector<std::unique_ptr<Waiter>> waiters;
    for (int i = 0; i < batch; ++i) {
      EngineRequest request =
          make_request(context, kSteps + batch * context / 2048 + 8, model_->config.vocab_size, i);
      request.cache_policies[0].compression = params;
      waiters.push_back(std::make_unique<Waiter>());
      if (const Status status = engine.submit(std::move(request), waiters.back()->stream()); !status.ok()) {
        std::fprintf(stderr, "%s\n", status.message().c_str());
        std::exit(1);
      }
    }
    Together result;
    while (!engine.wait_idle(std::chrono::milliseconds(5)))
      result.most_running = std::max(result.most_running, engine.stats().num_running);
    for (const auto& waiter : waiters) waiter->wait();
    // The last to come decodes with all the others from its third token on.
    const std::vector<double> gaps = waiters.back()->gaps_ms();
    std::vector<double> steady;
    for (std::size_t i = 2; i < gaps.size() && i < 2 + kSteps / 2; ++i) steady.push_back(gaps[i]);
    result.step_ms = median(std::move(steady));
    return result;
  }
  void measure_step(Engine& engine, int batch, int context) {
    const double ms = run_together(engine, batch, context, std::nullopt).step_ms;
    const double roofline_ms = (weight_bytes_ + kv_token_bytes_ * batch * context) / copy_gb_per_s_ / 1e6;
    const std::string name =
        "decode step, batch " + std::to_string(batch) + ", context " + std::to_string(context);
    add(name + ", ms", ms, 0);
    add(name + ": share of the roofline", roofline_ms / ms, 0.8);
  }
  static CompressionParams quarter() {
    CompressionParams params = preset_params(Preset::kDefault, BasePolicy::kSnapKv);
    params.budget_fraction = 0.25;
    return params;
  }
  void measure_share(Engine& engine) {
    EngineRequest request = make_request(8192, 256, model_->config.vocab_size, 5);
    std::vector<double> gaps;
    const FinishEvent off = run_one(engine, request, &gaps);
    request.request_id += "-kvcrush";
    request.cache_policies[0].compression = quarter();
    request.cache_policies[0].compression->lookahead_tokens = 0;
    const FinishEvent on = run_one(engine, request, &gaps);
    const double prune_ms = gaps.front() - median(gaps);
    add("prompt 8192: tokens/s until the first token", 8192e3 / off.time_to_first_token_ms, 0);
    add("KVCrush at 25 %, prompt 8192: prune, ms", prune_ms, 0);
    const double share = 100 * prune_ms / on.total_ms;
    add("KVCrush at 25 %, prompt 8192, 256 tokens: prune, % of the request (goal: below 0.5)", share, 0);
    add("KVCrush at 25 %: request time against off", on.total_ms / off.total_ms, 0);
    add("KVCrush at 25 %: KV bytes against off",
        static_cast<double>(on.compression.kv_bytes_after) /
            static_cast<double>(on.compression.kv_bytes_before),
        0);
  }
  // One memory: how many sequences are in it at a time, full and pruned, and what they make together.
  void measure_capacity() {
    constexpr int kContext = 4096;
    constexpr int kFull = 16;
    constexpr int kMost = 80;  // more than fit in any case
    std::unique_ptr<Engine> engine =
        make_engine(static_cast<std::int64_t>(kv_token_bytes_ * (kContext + 256) * kFull));
    const int full = run_together(*engine, 2 * kFull, kContext, std::nullopt).most_running;
    const int pruned = run_together(*engine, kMost, kContext, quarter()).most_running;
    add("4k sequences in one memory: full", full, 0);
    add("4k sequences in one memory: at 25 % against full", static_cast<double>(pruned) / full, 3.9);
    const double full_ms = run_together(*engine, full, kContext, std::nullopt).step_ms;
    const double pruned_ms = run_together(*engine, pruned, kContext, quarter()).step_ms;
    add("4k sequences in one memory: tokens/s at 25 % against full", pruned / pruned_ms / (full / full_ms),
        2.5);
  }

  std::string json_path_;
  bool cuda_graphs_;
  std::shared_ptr<ModelFile> model_;
  EngineObserver observer_;
  double copy_gb_per_s_ = 0;
  double weight_bytes_ = 0;
  double kv_token_bytes_ = 0;
  nlohmann::json rows_ = nlohmann::json::array();
};

}  // namespace
}  // namespace kvcrush

int main(int argc, char** argv) {
  std::string json;
  CLI::App app("The engine on a GPU with random weights of Llama-3-8B's shape");
  app.add_option("--json", json, "File for the results");
  int batch = 0;
  int context = 1024;
  app.add_option("--batch", batch, "Only the decode step of this many sequences")->check(CLI::Range(1, 256));
  app.add_option("--context", context, "and this many tokens each")->check(CLI::Range(1, 32768));
  bool late = false;
  app.add_flag("--no-early-launches", late, "Kernels wait for the ones before them, to compare");
  bool cuda_graphs = false;
  app.add_flag("--cuda-graphs", cuda_graphs, "Decode steps start as CUDA graphs");
  CLI11_PARSE(app, argc, argv);
  if (late) kvcrush::cuda::set_early_launches(false);
  static const kvcrush::RandomBackend backend;
  kvcrush::set_gpu_backend(&backend);
  return kvcrush::Bench(json, cuda_graphs).run(batch, context);
}
