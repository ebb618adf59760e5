// Attention and sampling on this machine's GPU against what the card can do: its copy bandwidth, and
// PyTorch's scaled_dot_product_attention. Prints a Markdown table and writes JSON.
#include <ATen/ATen.h>
#include <c10/cuda/CUDACachingAllocator.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/kernels/cuda/cuda_kernels.h"
#include "engine/kernels/cuda/sampling.h"
#include "engine/kv_cache/kv_storage.h"
#include "tests/gpu/gpu_timer.h"

namespace kvcrush {
namespace {

using bench::median_ms;

constexpr int kHeads = 32;
constexpr int kKvHeads = 8;
constexpr int kHeadDim = 128;
constexpr int kGroup = kHeads / kKvHeads;

at::TensorOptions on_gpu(at::ScalarType type) {
  return at::TensorOptions(type).device(at::kCUDA);
}

template <class T>
at::Tensor to_gpu(const std::vector<T>& values) {
  at::Tensor bytes = at::empty({static_cast<std::int64_t>(values.size() * sizeof(T))}, at::kByte);
  std::memcpy(bytes.data_ptr(), values.data(), values.size() * sizeof(T));
  return bytes.to(at::kCUDA);
}

double copy_gb_per_s() {
  const at::Tensor from = at::zeros({std::int64_t{1} << 30}, on_gpu(at::kByte));
  at::Tensor to = at::empty_like(from);
  return 2.0 * static_cast<double>(from.numel()) / median_ms([&] { to.copy_(from); }) / 1e6;
}

// One layer of `batch` sequences that hold `context` tokens each, in blocks of random order.
class PagedLayer {
 public:
  PagedLayer(int batch, int context, int num_queries, KvDtype dtype)
      : format_(make_kv_format(dtype, kHeadDim)),
        blocks_(cpu::ceil_div(context, per_block())),
        kv_({kKvHeads, kHeadDim}, batch * blocks_, at::kCUDA) {
    kv_.bytes().random_(0, 60);  // finite in every dtype
    table_ = at::randperm(std::int64_t{batch} * blocks_, on_gpu(at::kInt));
    for (int i = 0; i < batch; ++i) {
      cpu::AttentionSequence sequence;
      sequence.query_start = i * num_queries;
      sequence.num_queries = num_queries;
      sequence.cache = {table_.data_ptr<std::int32_t>() + i * blocks_,
                        quantised() ? context - num_queries : 0, context, format_};
      sequence.cache.num_packed =
          quantised() ? (context - num_queries) / per_block() * per_block() - per_block() : 0;
      sequences_.push_back(sequence);
    }
    on_device_ = to_gpu(sequences_);
  }

  double attention_ms(const at::Tensor& qkv) {
    int device = 0;
    int processors = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    const cuda::AttentionPlan plan = cuda::plan_attention(sequences_, kGroup, kKvHeads, kHeadDim, processors,
                                                          cuda::prefill_rows(kHeadDim, widest(), false));
    const at::Tensor decode = to_gpu(plan.decode);
    const at::Tensor prefill = to_gpu(plan.prefill);
    const at::Tensor partials =
        at::empty({cuda::partial_floats(plan, kKvHeads, kHeadDim)}, on_gpu(at::kFloat));
    at::Tensor counters =
        at::zeros({static_cast<std::int64_t>(plan.decode.size()) * kKvHeads}, on_gpu(at::kInt));
    at::Tensor out = at::empty({qkv.size(0), kHeads * kHeadDim}, qkv.options());
    at::Tensor stats = at::empty({qkv.size(0), kHeads, 2}, on_gpu(at::kFloat));
    const cuda::AttentionCall call{
        .sequences = static_cast<const cpu::AttentionSequence*>(on_device_.const_data_ptr()),
        .decode = static_cast<const cuda::RowTile*>(decode.const_data_ptr()),
        .prefill = static_cast<const cuda::RowTile*>(prefill.const_data_ptr()),
        .num_decode = static_cast<int>(plan.decode.size()),
        .num_prefill = static_cast<int>(plan.prefill.size()),
        .num_splits = plan.num_splits,
        .decode_rows = plan.decode_rows,
        .prefill_rows = plan.prefill_rows,
        .num_processors = processors,
        .pool = kv_.pool(),
        .widest = widest(),
        .activations = cuda::ActivationType::kBF16,
        .q = qkv.const_data_ptr(),
        .q_stride = qkv.size(1),
        .num_heads = kHeads,
        .scale = 1.0F / std::sqrt(static_cast<float>(kHeadDim)),
        .out = out.data_ptr(),
        .row_stats = stats.data_ptr<float>(),
        .partials = partials.data_ptr<float>(),
        .counters = counters.data_ptr<int>()};
    return median_ms([&] { cuda::paged_attention(call, nullptr); });
  }
  double bytes_read() const {
    double bytes = 0;
    for (const auto& sequence : sequences_) {
      bytes +=
          static_cast<double>(sequence.cache.num_packed) * cpu::token_head_bytes(format_.packed, kHeadDim) +
          static_cast<double>(sequence.cache.num_cached - sequence.cache.num_packed) *
              cpu::token_head_bytes(format_.tail, kHeadDim);
    }
    return bytes * kKvHeads;
  }

 private:
  KvDtype widest() const { return quantised() ? format_.packed : KvDtype::kF16; }
  bool quantised() const { return format_.packed_tokens_per_block > 0; }
  int per_block() const {
    return quantised() ? std::min(format_.packed_tokens_per_block, format_.tail_tokens_per_block)
                       : format_.tail_tokens_per_block;
  }

  cpu::KvFormat format_;
  int blocks_;
  KvStorage kv_;
  at::Tensor table_;
  std::vector<cpu::AttentionSequence> sequences_;
  at::Tensor on_device_;
};

at::Tensor random_qkv(int rows) {
  return at::randn({rows, (kHeads + 2 * kKvHeads) * kHeadDim}, on_gpu(at::kBFloat16));
}

class Report {
 public:
  explicit Report(std::string filter) : filter_(std::move(filter)) {}
  // Whether a benchmark of this name is asked for.
  bool wants(const std::string& name) const { return name.find(filter_) != std::string::npos; }
  void add(const std::string& what, double value, const std::string& unit, double target) {
    std::printf("| %s | %.3g %s | %s |\n", what.c_str(), value, unit.c_str(),
                target > 0 ? (value >= target ? "reached" : "missed") : "");
    rows_.push_back({{"what", what}, {"value", value}, {"unit", unit}, {"target", target}});
  }
  void write(const std::string& path) const { std::ofstream(path) << rows_.dump(1) << "\n"; }

 private:
  std::string filter_;
  nlohmann::json rows_ = nlohmann::json::array();
};

void bench_decode(double copy_rate, Report& report) {
  for (const KvDtype dtype : {KvDtype::kF16, KvDtype::kInt8, KvDtype::kInt4}) {
    for (const auto& [batch, context] :
         std::vector<std::pair<int, int>>{{1, 32768}, {8, 8192}, {64, 4096}, {256, 1024}}) {
      const std::string name = "decode attention, " + std::string(to_string(dtype)) + ", batch " +
                               std::to_string(batch) + ", context " + std::to_string(context);
      if (!report.wants(name)) continue;
      PagedLayer layer(batch, context, 1, dtype);
      const double ms = layer.attention_ms(random_qkv(batch));
      const double rate = layer.bytes_read() / ms / 1e6;
      report.add(name + ": share of copy bandwidth", rate / copy_rate, "", 0.85);
    }
    c10::cuda::CUDACachingAllocator::emptyCache();
  }
}

void bench_prefill(Report& report) {
  for (const int tokens : {2048, 8192, 32768}) {
    const std::string name = "prefill attention, " + std::to_string(tokens) + " tokens";
    if (!report.wants(name)) continue;
    PagedLayer layer(1, tokens, tokens, KvDtype::kF16);
    const double ours = layer.attention_ms(random_qkv(tokens));
    const at::Tensor q = at::randn({1, kHeads, tokens, kHeadDim}, on_gpu(at::kBFloat16));
    const at::Tensor k = at::randn({1, kKvHeads, tokens, kHeadDim}, on_gpu(at::kBFloat16));
    const double theirs = median_ms([&] {
      at::scaled_dot_product_attention(q, k, k, {}, 0.0, /*is_causal=*/true, {}, /*enable_gqa=*/true);
    });
    report.add(name + ": speed against PyTorch's SDPA", theirs / ours, "x", 1);
    const double flops = 2.0 * kHeads * kHeadDim * static_cast<double>(tokens) * tokens;
    report.add(name, flops / ours / 1e9, "TFLOP/s", 0);
  }
}

void bench_sampling(Report& report) {
  constexpr int kVocab = 128256;
  for (const int rows : {1, 64}) {
    at::Tensor logits = at::randn({rows, kVocab}, on_gpu(at::kFloat));
    at::Tensor tokens = at::empty({rows}, on_gpu(at::kInt));
    for (const float temperature : {0.0F, 1.0F}) {
      const std::string name = std::string("sampling, ") + (temperature == 0 ? "greedy" : "top-p") +
                               ", rows " + std::to_string(rows);
      if (!report.wants(name)) continue;
      std::vector<cuda::SampleRow> parameters(static_cast<std::size_t>(rows));
      for (cuda::SampleRow& row : parameters)
        row.temperature = temperature, row.top_p = 0.95F, row.num_logprobs = -1;
      const at::Tensor on_device = to_gpu(parameters);
      cuda::SampleCall call;
      call.logits = logits.data_ptr<float>();
      call.logits_stride = kVocab;
      call.vocab_size = kVocab;
      call.num_rows = rows;
      call.rows = static_cast<const cuda::SampleRow*>(on_device.const_data_ptr());
      call.tokens = tokens.data_ptr<TokenId>();
      report.add(name, 1e3 * median_ms([&] { cuda::sample_tokens(call, nullptr); }), "us", 0);
    }
  }
}

int run(const std::string& json_path, const std::string& filter) {
  const double copy_rate = copy_gb_per_s();
  Report report(filter);
  std::printf("| what | value | target |\n|---|---|---|\n");
  report.add("copy bandwidth", copy_rate, "GB/s", 0);
  bench_decode(copy_rate, report);
  bench_prefill(report);
  bench_sampling(report);
  if (!json_path.empty()) report.write(json_path);
  return 0;
}

}  // namespace
}  // namespace kvcrush

int main(int argc, char** argv) {
  std::string json;
  CLI::App app("CUDA kernels against the card's roofline and PyTorch");
  app.add_option("--json", json, "File for the results");
  std::string filter;
  app.add_option("--filter", filter, "Only what has this in its name");
  CLI11_PARSE(app, argc, argv);
  return kvcrush::run(json, filter);
}
