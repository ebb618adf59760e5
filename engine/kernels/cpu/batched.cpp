#include "engine/kernels/cpu/batched.h"

#include <algorithm>
#include <utility>

#include "engine/core/status.h"
#include "engine/kernels/parallel.h"

namespace kvcrush::cpu {

namespace {

std::int64_t num_panels(std::int64_t features) {
  const std::int64_t width = cpu_kernels().panel_width;
  return (features + width - 1) / width;
}

int num_partitions(const CachedLayer& cache, int num_visible) {
  return ceil_div(cache.window.dropped_tiles + num_tiles(cache, num_visible), kPartitionTiles);
}

}  // namespace

PackedMatrix::PackedMatrix(std::int64_t out_features, std::int64_t in_features)
    : out_features_(out_features),
      in_features_(in_features),
      data_(num_panels(out_features) * cpu_kernels().panel_width * in_features) {}

void PackedMatrix::pack_rows(std::int64_t first_row, std::span<const float> w) {
  const KernelTable& kernels = cpu_kernels();
  const std::int64_t rows = static_cast<std::int64_t>(w.size()) / in_features_;
  KVCRUSH_CHECK(rows * in_features_ == static_cast<std::int64_t>(w.size()));
  KVCRUSH_CHECK(first_row % kernels.panel_width == 0 && first_row + rows <= out_features_);
  KVCRUSH_CHECK(rows % kernels.panel_width == 0 || first_row + rows == out_features_);
  parallel_for(num_panels(rows), [&](std::int64_t p, int) {
    const std::int64_t row = p * kernels.panel_width;
    const auto panel_rows = static_cast<int>(std::min<std::int64_t>(kernels.panel_width, rows - row));
    kernels.pack_panel(w.data() + row * in_features_, panel_rows, static_cast<int>(in_features_),
                       data_.data() + (first_row + row) * in_features_);
  });
}

void gemm(const float* x, std::int64_t ldx, int m, const PackedMatrix& w, float* y, std::int64_t ldy,
          bool accumulate) {
  // A few panels per unit of work: little overhead at one row, even load at many.
  constexpr std::int64_t kPanelsPerUnit = 4;
  const std::int64_t panels = num_panels(w.out_features());
  const std::int64_t units = (panels + kPanelsPerUnit - 1) / kPanelsPerUnit;
  parallel_for(units, [&](std::int64_t unit, int) {
    const std::int64_t first = unit * kPanelsPerUnit;
    const std::int64_t last = std::min(first + kPanelsPerUnit, panels);
    cpu_kernels().gemm_panels(x, ldx, m, static_cast<int>(w.in_features()), w.data(),
                              static_cast<int>(w.out_features()), static_cast<int>(first),
                              static_cast<int>(last), y, ldy, accumulate);
  });
}

namespace {

// Cuts the batch into tasks of one sequence, KV head and a few queries. Where that leaves threads idle (few
// long decodes), tasks are cut again along the cached partitions; the result is the same to the bit.
void plan_tasks(std::span<const AttentionSequence> sequences, const KvPool& pool, int group, int task_queries,
                AttentionWorkspace& w) {
  w.tasks.clear();
  w.splits.clear();
  for (const AttentionSequence& sequence : sequences) {
    for (int h = 0; h < pool.num_kv_heads; ++h) {
      for (int q = 0; q < sequence.num_queries; q += task_queries) {
        const int queries = std::min(task_queries, sequence.num_queries - q);
        const int visible = sequence.cache.num_cached - sequence.num_queries + q + queries;
        w.tasks.push_back({&sequence, h, q, queries, 0, num_partitions(sequence.cache, visible), nullptr});
      }
    }
  }
  constexpr std::size_t kTasksPerThread = 8;
  if (w.tasks.size() >= kTasksPerThread * num_kernel_threads()) return;

  thread_local std::vector<AttentionTask> whole;  // both keep their memory from layer to layer
  std::swap(whole, w.tasks);
  w.tasks.clear();
  std::int64_t floats = 0;
  for (const AttentionTask& task : whole) {
    if (task.last_partition < 2) {
      w.tasks.push_back(task);
      continue;
    }
    const std::int64_t state_floats =
        static_cast<std::int64_t>(task.num_queries) * group * (pool.head_dim + 2);
    w.splits.push_back({task, floats, task.last_partition});
    floats += state_floats * task.last_partition;
  }
  w.partials.resize(std::max<std::size_t>(w.partials.size(), floats));
  for (const AttentionWorkspace::Split& split : w.splits) {
    const std::int64_t state_floats =
        static_cast<std::int64_t>(split.whole.num_queries) * group * (pool.head_dim + 2);
    for (int p = 0; p < split.num_parts; ++p) {
      AttentionTask part = split.whole;
      part.first_partition = p;
      part.last_partition = p + 1;
      part.partial = w.partials.data() + split.first_partial_float + p * state_floats;
      w.tasks.push_back(part);
    }
  }
}

}  // namespace

void paged_attention(std::span<const AttentionSequence> sequences, const KvPool& pool, const float* q,
                     std::int64_t q_stride, int num_heads, float scale, AttentionWorkspace& workspace,
                     float* out, float* row_stats) {
  const KernelTable& kernels = cpu_kernels();
  const int group = num_heads / pool.num_kv_heads;
  KVCRUSH_CHECK(group <= kMaxGroup && pool.head_dim <= kMaxHeadDim && pool.head_dim % 16 == 0);
  const bool in_bf16 = workspace.in_bf16 && kernels.attention_bf16 != nullptr && pool.head_dim % 32 == 0;
  // Converting K and V for the tiles pays over many rows.
  constexpr int kTileTaskRows = kMaxTaskRows;
  plan_tasks(sequences, pool, group, in_bf16 ? kTileTaskRows / group : kMaxTaskQueries, workspace);
  const std::int64_t scratch_floats = in_bf16 ? attention_bf16_scratch_floats() : attention_scratch_floats();
  workspace.scratch.resize(
      std::max<std::size_t>(workspace.scratch.size(), scratch_floats * num_kernel_threads()));
  const auto attention = in_bf16 ? kernels.attention_bf16 : kernels.attention;
  parallel_for(static_cast<std::int64_t>(workspace.tasks.size()), [&](std::int64_t i, int thread) {
    attention(workspace.tasks[i], pool, q, q_stride, num_heads, scale,
              workspace.scratch.data() + scratch_floats * thread, out, row_stats);
  });
  const int state = pool.head_dim + 2;
  for (const AttentionWorkspace::Split& split : workspace.splits) {
    const int rows = split.whole.num_queries * group;
    const std::int64_t first_row = split.whole.sequence->query_start + split.whole.first_query;
    for (int r = 0; r < rows; ++r) {
      const std::int64_t head = (first_row + r / group) * num_heads + split.whole.kv_head * group + r % group;
      kernels.merge_partials(
          workspace.partials.data() + split.first_partial_float + static_cast<std::int64_t>(r) * state,
          static_cast<std::int64_t>(rows) * state, split.num_parts, pool.head_dim, out + head * pool.head_dim,
          row_stats + 2 * head);
    }
  }
}

}  // namespace kvcrush::cpu
