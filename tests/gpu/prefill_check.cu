// The Hopper prefill kernel on this machine's GPU, without torch: how wgmma reads its operands, results
// against a plain kernel, speed, and how builds of other shapes compare. Run it under `timeout`: a barrier
// that nobody completes is a program that never ends. usage: prefill_check [probe] [check] [speed]     all
// where none is named
#include <cstring>
#include <string>

#include "engine/kernels/cuda/prefill_sm90.h"
#include "engine/kernels/cuda/prefill_sm90_attend.cuh"
#include "tests/gpu/prefill_check_memory.cuh"
#include "tests/gpu/prefill_check_probe.cuh"

namespace kvcrush::prefill_check {
namespace {

constexpr int kReferenceThreads = 256;

// K or V of a token, whatever it is stored as.
__device__ float cached(const cpu::KvPool& pool, const cpu::KvTile& tile, int kv_head, int column, int d,
                        bool key) {
  const int head_dim = pool.head_dim;
  std::byte* head = cpu::head_base(pool, tile.block, kv_head);
  const int token = tile.offset + column;
  if (!is_quantised(tile.dtype)) {
    const auto* all = reinterpret_cast<const F16*>(head);
    return to_float(key ? all[tile.offset * head_dim + d * 16 + column]
                        : all[(tile.tokens_per_block + token) * head_dim + d]);
  }
  const cpu::QuantisedHead q = cpu::quantised_head(head, tile.dtype, tile.tokens_per_block, head_dim);
  const int width = cpu::tile_width(tile.tokens_per_block, tile.offset);
  const bool four = tile.dtype == KvDtype::kInt4;
  const int half = key ? width / 2 : head_dim / 2;
  const int along = key ? column : d;
  const int row = key ? width : head_dim;
  const int index = four ? along % half + (key ? d : token) * (row / 2) : along + (key ? d : token) * row;
  const int skip = key ? tile.offset * head_dim / (four ? 2 : 1) : 0;
  int code = static_cast<int>((key ? q.keys : q.values)[skip + index]);
  if (four) code = along < half ? code & 15 : code >> 4;
  const float scale = to_float(F16{(key ? q.key_scales : q.value_scales)[token]});
  const float minimum = to_float(F16{(key ? q.key_minima : q.value_minima)[token]});
  F16 rounded;
  from_float(minimum + scale * static_cast<float>(code), rounded);
  return to_float(rounded);
}

// Grid: checked rows, query heads. out [rows][heads][head_dim], stats [rows][heads][2].
template <class Activation>
__global__ void reference_kernel(const cpu::AttentionSequence* sequences, int num_sequences, cpu::KvPool pool,
                                 const Activation* q, std::int64_t q_stride, int group, float scale,
                                 int row_step, float* out, float* stats) {
  extern __shared__ float scores[];
  __shared__ float top;
  __shared__ float total;
  const int row = static_cast<int>(blockIdx.x) * row_step;
  int which = 0;
  while (which + 1 < num_sequences && sequences[which + 1].query_start <= row) ++which;
  const cpu::AttentionSequence& s = sequences[which];
  const auto head = static_cast<int>(blockIdx.y);
  const int own = s.cache.num_cached - s.num_queries + row - s.query_start;
  const int first_branch = s.cache.num_cached - s.num_branch_slots;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Activation* query = q + row * q_stride + head * pool.head_dim;
  for (int slot = static_cast<int>(threadIdx.x) / 32; slot <= own; slot += kReferenceThreads / 32) {
    const cpu::KvTile tile = cpu::tile_of_slot(s.cache, slot);
    float sum = 0;
    for (int d = lane; d < pool.head_dim; d += 32) {
      F16 rounded;
      from_float(to_float(query[d]), rounded);
      sum += to_float(rounded) * cached(pool, tile, head / group, slot - tile.first_slot, d, true);
    }
    sum = warp_sum(sum);
    const bool seen = s.num_branches == 1 || slot < first_branch || (own - slot) % s.num_branches == 0;
    if (lane == 0) scores[slot] = seen ? sum * scale : -INFINITY;
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    float most = -INFINITY;
    for (int slot = lane; slot <= own; slot += 32) most = fmaxf(most, scores[slot]);
    most = warp_max(most);
    float sum = 0;
    for (int slot = lane; slot <= own; slot += 32) sum += expf(scores[slot] - most);
    sum = warp_sum(sum);
    if (lane == 0) top = most, total = sum;
  }
  __syncthreads();
  const std::int64_t result = std::int64_t{blockIdx.x} * gridDim.y + head;
  for (int d = static_cast<int>(threadIdx.x); d < pool.head_dim; d += kReferenceThreads) {
    float sum = 0;
    for (int slot = 0; slot <= own; ++slot) {
      if (scores[slot] == -INFINITY) continue;
      const cpu::KvTile tile = cpu::tile_of_slot(s.cache, slot);
      sum += expf(scores[slot] - top) * cached(pool, tile, head / group, slot - tile.first_slot, d, false);
    }
    out[result * pool.head_dim + d] = sum / total;
  }
  if (threadIdx.x == 0) {
    stats[2 * result] = top;
    stats[2 * result + 1] = 1 / total;
  }
}

template <class Activation>
constexpr ActivationType activation_type() {
  if constexpr (std::is_same_v<Activation, float>) return ActivationType::kF32;
  return std::is_same_v<Activation, F16> ? ActivationType::kF16 : ActivationType::kBF16;
}
inline float host_float(float x) {
  return x;
}
inline float host_float(F16 x) {
  return __half2float(__ushort_as_half(x.bits));
}
inline float host_float(BF16 x) {
  return __bfloat162float(__ushort_as_bfloat16(x.bits));
}

struct Heads {
  int head_dim;
  int num_kv_heads;
  int group;
};

using Launch = void (*)(const AttentionCall&, Stream);

// One call's inputs and outputs.
template <class Activation>
class Problem {
 public:
  Problem(const Heads& heads, const std::vector<TestSequence>& shapes, float query_factor = 1)
      : heads_(heads),
        shapes_(shapes),
        pool_(heads.head_dim, heads.num_kv_heads, shapes),
        stride_(std::int64_t{heads.group + 2} * heads.num_kv_heads * heads.head_dim),
        q_(static_cast<std::size_t>(pool_.num_rows() * stride_)),
        out_(static_cast<std::size_t>(pool_.num_rows()) * num_heads() * heads.head_dim),
        stats_(static_cast<std::size_t>(pool_.num_rows()) * num_heads() * 2) {
    fill_bell<<<1024, 256>>>(q_.get(), static_cast<std::int64_t>(q_.size()), 99, query_factor);
    finish("queries");
  }
  int num_heads() const { return heads_.num_kv_heads * heads_.group; }

  // Row tiles as attention_plan makes them.
  std::vector<RowTile> row_tiles(int rows) const {
    std::vector<RowTile> tiles;
    for (std::size_t i = 0; i < shapes_.size(); ++i) {
      for (int query = 0; query < shapes_[i].num_queries; query += rows / heads_.group)
        tiles.push_back({static_cast<std::int32_t>(i), query});
    }
    std::reverse(tiles.begin(), tiles.end());
    return tiles;
  }
  AttentionCall call(const DeviceArray<RowTile>& tiles) const {
    AttentionCall call;
    call.sequences = pool_.on_device();
    call.prefill = tiles.get();
    call.num_prefill = static_cast<int>(tiles.size());
    call.pool = pool_.pool;
    for (const TestSequence& shape : shapes_) {
      if (is_quantised(shape.dtype) && call.widest != KvDtype::kInt8) call.widest = shape.dtype;
    }
    call.activations = activation_type<Activation>();
    call.q = q_.get();
    call.q_stride = stride_;
    call.num_heads = num_heads();
    call.scale = 1 / std::sqrt(static_cast<float>(heads_.head_dim));
    call.out = out_.get();
    call.row_stats = stats_.get();
    return call;
  }

  // Runs once and compares every row_step-th row.
  bool check(const char* name, Launch launch, int rows, int row_step) {
    std::printf("%-58s ", name);
    std::fflush(stdout);
    if (expected_.empty()) compute_expected(row_step);
    out_.poison();
    stats_.poison();
    const DeviceArray<RowTile> tiles(row_tiles(rows));
    launch(call(tiles), nullptr);
    finish(name);
    const std::vector<Activation> out = out_.to_host();
    const std::vector<float> stats = stats_.to_host();
    const auto worse = [](float so_far, float error) {
      return error <= so_far ? so_far : error;
    };  // NaN is worst
    float error = 0;
    float top_error = 0;
    float sum_error = 0;
    const int checked = cpu::ceil_div(pool_.num_rows(), row_step);
    for (int i = 0; i < checked * num_heads(); ++i) {
      const std::size_t from =
          static_cast<std::size_t>(i / num_heads() * row_step) * num_heads() + i % num_heads();
      for (int d = 0; d < heads_.head_dim && error == error; ++d) {
        const float actual = host_float(out[from * heads_.head_dim + d]);
        error = worse(error, std::abs(actual - expected_[static_cast<std::size_t>(i) * heads_.head_dim + d]));
      }
      const auto at = static_cast<std::size_t>(2 * i);
      if (top_error == top_error)
        top_error = worse(top_error, std::abs(stats[2 * from] - expected_stats_[at]));
      if (sum_error == sum_error)
        sum_error = worse(sum_error, std::abs(stats[2 * from + 1] / expected_stats_[at + 1] - 1));
    }
    const float allowed = std::is_same_v<Activation, BF16> ? 0.02F : 0.008F;
    const bool right = error <= allowed && top_error <= 0.01F && sum_error <= 0.01F;
    std::printf("%s  out %.2g, largest score %.2g, sum %.2g, of %d rows\n", right ? "PASS" : "FAIL", error,
                top_error, sum_error, checked);
    std::fflush(stdout);
    return right;
  }

  // Median milliseconds of 10.
  float time(Launch launch, int rows) const {
    const DeviceArray<RowTile> tiles(row_tiles(rows));
    cudaEvent_t start = nullptr;
    cudaEvent_t stop = nullptr;
    must(cudaEventCreate(&start), "event");
    must(cudaEventCreate(&stop), "event");
    std::vector<float> times(10);
    launch(call(tiles), nullptr);
    for (float& ms : times) {
      must(cudaEventRecord(start), "event");
      launch(call(tiles), nullptr);
      must(cudaEventRecord(stop), "event");
      must(cudaEventSynchronize(stop), "event");
      must(cudaEventElapsedTime(&ms, start, stop), "event");
    }
    finish("timing");
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

 private:
  void compute_expected(int row_step) {
    const int checked = cpu::ceil_div(pool_.num_rows(), row_step);
    DeviceArray<float> out(static_cast<std::size_t>(checked) * num_heads() * heads_.head_dim);
    DeviceArray<float> stats(static_cast<std::size_t>(checked) * num_heads() * 2);
    int most = 0;
    for (const TestSequence& shape : shapes_) most = std::max(most, shape.num_cached);
    allow_shared(reference_kernel<Activation>, 4 * most);
    reference_kernel<Activation><<<dim3(static_cast<unsigned>(checked), static_cast<unsigned>(num_heads())),
                                   kReferenceThreads, 4 * static_cast<std::size_t>(most)>>>(
        pool_.on_device(), static_cast<int>(shapes_.size()), pool_.pool, q_.get(), stride_, heads_.group,
        1 / std::sqrt(static_cast<float>(heads_.head_dim)), row_step, out.get(), stats.get());
    finish("reference");
    expected_ = out.to_host();
    expected_stats_ = stats.to_host();
  }

  Heads heads_;
  std::vector<TestSequence> shapes_;
  TestPool pool_;
  std::int64_t stride_;
  DeviceArray<Activation> q_;
  DeviceArray<Activation> out_;
  DeviceArray<float> stats_;
  std::vector<float> expected_;
  std::vector<float> expected_stats_;
};

template <class Activation>
bool check(const char* name, const Heads& heads, const std::vector<TestSequence>& shapes,
           float query_factor = 1, int row_step = 1) {
  return Problem<Activation>(heads, shapes, query_factor).check(name, prefill_sm90, kPrefillRows, row_step);
}

bool check_all() {
  constexpr KvDtype k8 = KvDtype::kInt8;
  constexpr KvDtype k4 = KvDtype::kInt4;
  constexpr KvDtype k16 = KvDtype::kF16;
  int wrong = 0;
  const auto expect = [&](bool right) { wrong += right ? 0 : 1; };
  expect(check<float>("128, group 4, f32", {128, 2, 4}, {{1, 1}, {17, 17}, {128, 128}, {300, 41}, {129, 1}}));
  expect(check<BF16>("128, group 4, bf16, long", {128, 2, 4}, {{5000, 700}, {2049, 2049}}, 1, 3));
  expect(check<F16>("128, group 1, f16", {128, 4, 1}, {{333, 200}, {65, 64}, {64, 64}, {1, 1}}));
  expect(check<float>("128, group 3, f32", {128, 3, 3}, {{1000, 130}, {95, 95}}));
  expect(check<F16>("128, group 8, f16", {128, 1, 8}, {{129, 33}, {4097, 50}, {16, 16}}));
  expect(check<F16>("64, group 4, f16", {64, 2, 4}, {{700, 700}, {31, 31}, {1500, 64}}));
  expect(check<float>("64, group 3, f32", {64, 3, 3}, {{259, 77}, {4999, 30}}));
  expect(check<BF16>("64, group 8, bf16", {64, 1, 8}, {{129, 33}, {900, 300}}));
  expect(check<float>("64, group 1, f32", {64, 2, 1}, {{640, 300}}));
  expect(check<float>("128, steep scores", {128, 2, 4}, {{900, 260}, {300, 300}}, 6));
  expect(check<float>("128, int8", {128, 2, 4},
                      {{2000, 100, k8, 1895}, {40, 20, k8, 0}, {500, 64, k8, 392}, {600, 70, k8, 402}}));
  expect(check<float>("128, int4", {128, 2, 4},
                      {{2000, 100, k4, 1895}, {300, 20, k4, 240}, {500, 64, k4, 376}, {600, 70, k4, 367}}));
  expect(check<BF16>("128, int4, long, group 8", {128, 1, 8}, {{5000, 300, k4, 4320}}, 1, 2));
  expect(check<F16>("64, int8", {64, 2, 4}, {{1000, 64, k8, 931}, {200, 200, k8, 0}, {129, 9, k8, 104}}));
  expect(check<float>("64, int4", {64, 2, 3}, {{1000, 64, k4, 931}, {264, 24, k4, 128}, {150, 33, k4, 117}}));
  expect(check<float>("128, f16, int8 and int4 at once", {128, 2, 4},
                      {{300, 41, k16}, {700, 50, k8, 600}, {900, 33, k4, 850}, {90, 90, k4, 0}}));
  expect(
      check<float>("128, branches", {128, 2, 4},
                   {{212, 3, k16, 0, 3, 12}, {412, 60, k16, 0, 3, 12}, {12, 12, k16, 0, 3, 12}, {300, 30}}));
  expect(check<float>("128, branches, int4", {128, 2, 4},
                      {{412, 60, k4, 349, 3, 12}, {260, 3, k4, 243, 4, 12}}));
  expect(check<F16>("64, branches, group 8", {64, 2, 8}, {{140, 24, k16, 0, 3, 12}}));
  std::printf("%s: %d of the checks went wrong\n\n", wrong == 0 ? "PASS" : "FAIL", wrong);
  return wrong == 0;
}

// Builds that speed is measured of.
struct Build {
  const char* name;
  Launch launch;
  int rows;
};
template <int kTokens, int kConsumers, bool kTakeTurns, Swizzle kKeySwizzle>
Build build(const char* name) {
  using Shape = PrefillShape<128, false, kTokens, kConsumers, kTakeTurns, kKeySwizzle>;
  return {name, launch_prefill<Shape, BF16>, Shape::kRows};
}
std::vector<Build> builds() {
  return {{"as built", prefill_sm90, kPrefillRows},
          build<128, 2, true, Swizzle::k32>("128 tokens, 2 groups, turns, K 32"),
          build<128, 2, false, Swizzle::k32>("128 tokens, 2 groups, no turns, K 32"),
          build<128, 2, true, Swizzle::k128>("128 tokens, 2 groups, turns, K 128"),
          build<176, 2, true, Swizzle::k32>("176 tokens, 2 groups, turns, K 32"),
          build<176, 2, false, Swizzle::k32>("176 tokens, 2 groups, no turns, K 32"),
          build<80, 3, true, Swizzle::k32>("80 tokens, 3 groups, turns, K 32"),
          build<80, 3, false, Swizzle::k32>("80 tokens, 3 groups, no turns, K 32"),
          build<64, 3, true, Swizzle::k32>("64 tokens, 3 groups, turns, K 32"),
          {"128 tokens, 2 groups, turns, K 32, a block an item",
           [](const AttentionCall& call, Stream stream) {
             launch_prefill<PrefillShape<128, false>, BF16>(call, stream, 1 << 30);
           },
           128}};
}

bool measure() {
  const Heads heads{128, 8, 4};
  bool right = true;
  const auto report = [&](const char* what, Problem<BF16>& problem, double flops, int row_step,
                          const std::vector<Build>& all) {
    std::printf("%s\n", what);
    for (const Build& one : all) {
      right &= problem.check(one.name, one.launch, one.rows, row_step);
      const float ms = problem.time(one.launch, one.rows);
      std::printf("    %.3f ms, %.0f TFLOP/s\n", ms, flops / ms / 1e9);
      std::fflush(stdout);
    }
  };
  const auto flops = [&](double queries, double tokens) {
    return 4.0 * 32 * 128 * queries * (tokens - queries / 2);
  };
  for (const int tokens : {2048, 8192, 32768}) {
    Problem<BF16> problem(heads, {{tokens, tokens}});
    report((std::to_string(tokens) + " tokens").c_str(), problem, flops(tokens, tokens), tokens / 16 - 1,
           builds());
  }
  Problem<BF16> chunk(heads, {{32768, 2048}});
  report("2048 queries over 32768 tokens", chunk, flops(2048, 32768), 127, builds());
  for (const KvDtype dtype : {KvDtype::kInt4, KvDtype::kInt8}) {
    Problem<BF16> packed(heads, {{8192, 2048, dtype, 8192 - 2048 - 64}});
    report(("2048 queries over 8192 tokens, " + std::string(to_string(dtype))).c_str(), packed,
           flops(2048, 8192), 127, {builds().front()});
  }
  Problem<BF16> plain(heads, {{8192, 2048}});
  report("2048 queries over 8192 tokens, f16", plain, flops(2048, 8192), 127, {builds().front()});
  std::printf("%s\n", right ? "PASS: every build measured is right" : "FAIL: a build measured is wrong");
  return right;
}

}  // namespace
}  // namespace kvcrush::prefill_check

int main(int argc, char** argv) {
  using namespace kvcrush::prefill_check;
  const auto wanted = [&](const char* part) {
    for (int i = 1; i < argc; ++i) {
      if (std::strcmp(argv[i], part) == 0) return true;
    }
    return argc == 1;
  };
  cudaDeviceProp device{};
  must(cudaGetDeviceProperties(&device, 0), "device");
  std::printf("%s, %d multiprocessors; kernel serves it: %s\n\n", device.name, device.multiProcessorCount,
              kvcrush::cuda::prefill_sm90_serves(128, kvcrush::KvDtype::kInt4) ? "yes" : "no");
  bool right = true;
  if (wanted("probe")) {
    const ProbeData data;
    right &= probe<kvcrush::cuda::Swizzle::k32>(data);
    right &= probe<kvcrush::cuda::Swizzle::k128>(data);
    std::printf("%s: the kernel's reading of descriptors\n\n", right ? "PASS" : "FAIL");
  }
  if (wanted("check")) right &= check_all();
  if (wanted("speed")) right &= measure();
  return right ? 0 : 1;
}
