// One call of the Hopper prefill kernel: its inputs, a plain kernel's answer, the comparison and the time it
// takes.
#pragma once

#include <string>

#include "engine/kernels/cuda/prefill_sm90.h"
#include "tests/gpu/prefill_check_memory.cuh"

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

inline int multiprocessors() {
  cudaDeviceProp device{};
  must(cudaGetDeviceProperties(&device, 0), "device");
  return device.multiProcessorCount;
}

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
    call.num_processors = multiprocessors();
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

}  // namespace
}  // namespace kvcrush::prefill_check
