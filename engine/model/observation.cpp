#include "engine/model/observation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/core/status.h"
#include "engine/kernels/parallel.h"

namespace kvcrush {

Observation::Observation(const HeadLayout& heads, int num_layers, const ObservationNeeds& needs,
                         at::Device device)
    : heads_(heads), needs_(needs) {
  const auto options = at::TensorOptions(at::kFloat).device(device);
  queries_ = at::empty({num_layers, needs.ring_rows(), heads.num_heads * heads.head_dim}, options);
  stats_ = at::empty({num_layers, needs.ring_rows(), heads.num_heads * 2}, options);
  if (needs.attention_sums)
    sums_.assign(static_cast<std::size_t>(num_layers), AttentionSums(heads.num_heads));
  num_dropped_.assign(static_cast<std::size_t>(num_layers), 0);
}

Observation Observation::clone_for(const ObservationNeeds& needs) const {
  Observation copy(*this);
  copy.needs_ = narrowed(needs_, needs);
  if (copy.needs_.num_queries > 0) {
    copy.queries_ = queries_.clone();
    copy.stats_ = stats_.clone();
  }
  if (!copy.needs_.attention_sums) copy.sums_.clear();
  return copy;
}

void Observation::record(int layer, const at::Tensor& qkv, const at::Tensor& row_stats, int first_row,
                         int num_tokens, int first_position) {
  const int capacity = needs_.ring_rows();
  const auto copy = [&](at::Tensor& ring, const at::Tensor& source, int row, int slot) {
    const std::int64_t width = ring.size(2);
    if (!ring.is_cpu()) {
      ring[layer][slot].copy_(source[row].flatten().narrow(0, 0, width));
      return;
    }
    std::memcpy(ring.data_ptr<float>() + (static_cast<std::int64_t>(layer) * capacity + slot) * width,
                source.const_data_ptr<float>() + row * source.stride(0),
                sizeof(float) * static_cast<std::size_t>(width));
  };
  for (int i = std::max(0, num_tokens - capacity); i < num_tokens; ++i) {
    const int slot = (first_position + i) % capacity;
    copy(queries_, qkv, first_row + i, slot);
    copy(stats_, row_stats, first_row + i, slot);
  }
}

void Observation::accumulate(int layer, const at::Tensor& qkv, const at::Tensor& row_stats, int first_row,
                             int num_tokens, const cpu::CachedLayer& cache, const KvStorage& kv) {
  AttentionSums& sums = sums_[static_cast<std::size_t>(layer)];
  sums.grow(cache.num_cached);
  if (!use_cpu_kernels(kv.device())) {
    const at::Tensor queries = qkv.narrow(0, first_row, num_tokens).narrow(1, 0, queries_.size(2));
    const at::Tensor added =
        reference::probability_sums(queries, heads_, cache, kv).to(at::kCPU).contiguous();
    const float* data = added.const_data_ptr<float>();
    for (int h = 0; h < heads_.num_heads; ++h) {
      for (int i = 0; i < cache.num_cached; ++i)
        sums.row(h)[i] += data[static_cast<std::int64_t>(h) * cache.num_cached + i];
    }
    return;
  }
  query_rows_.clear();
  stat_rows_.clear();
  for (int i = first_row; i < first_row + num_tokens; ++i) {
    query_rows_.push_back(qkv.const_data_ptr<float>() + i * qkv.stride(0));
    stat_rows_.push_back(row_stats.const_data_ptr<float>() + i * row_stats.stride(0));
  }
  const int group = heads_.num_heads / heads_.num_kv_heads;
  const float scale = 1.0F / std::sqrt(static_cast<float>(heads_.head_dim));
  scratch_.resize(static_cast<std::size_t>(cpu::probability_scratch_floats() * num_kernel_threads()));
  parallel_for(heads_.num_kv_heads, [&](std::int64_t h, int thread) {
    cpu::cpu_kernels().probability_sums(kv.cpu_pool(), cache, static_cast<int>(h), group, query_rows_.data(),
                                        stat_rows_.data(), num_tokens, /*num_after=*/0, scale,
                                        scratch_.data() + cpu::probability_scratch_floats() * thread,
                                        sums.row(static_cast<int>(h) * group), sums.stride());
  });
}

void Observation::drop_sums(int layer, int num_dropped) {
  int& known = num_dropped_[static_cast<std::size_t>(layer)];
  if (needs_.attention_sums && num_dropped > known)
    sums_[static_cast<std::size_t>(layer)].drop_front(num_dropped - known);
  known = num_dropped;
}

const float* Observation::ring_row(const at::Tensor& ring, int layer, int position) const {
  return ring.const_data_ptr<float>() +
         (static_cast<std::int64_t>(layer) * needs_.ring_rows() + position % needs_.ring_rows()) *
             ring.size(2);
}

void Observation::add_query_rows(int layer, int count, int end_position,
                                 std::vector<const float*>& rows) const {
  KVCRUSH_CHECK(count <= needs_.ring_rows() && end_position >= count);
  for (int p = end_position - count; p < end_position; ++p) rows.push_back(ring_row(queries_, layer, p));
}

void Observation::add_stat_rows(int layer, int count, int end_position,
                                std::vector<const float*>& rows) const {
  KVCRUSH_CHECK(count <= needs_.ring_rows() && end_position >= count);
  for (int p = end_position - count; p < end_position; ++p) rows.push_back(ring_row(stats_, layer, p));
}

at::Tensor Observation::gather(const at::Tensor& ring, int layer, int count, int end_position) const {
  KVCRUSH_CHECK(count <= needs_.ring_rows() && end_position >= count);
  // The oldest position sits at end_position % ring_rows(): rotate it to the front, take the newest.
  return ring[layer]
      .roll(-(end_position % needs_.ring_rows()), 0)
      .narrow(0, needs_.ring_rows() - count, count);
}

at::Tensor Observation::gather_queries(int layer, int count, int end_position) const {
  return gather(queries_, layer, count, end_position);
}

at::Tensor Observation::gather_stats(int layer, int count, int end_position) const {
  return gather(stats_, layer, count, end_position);
}

}  // namespace kvcrush
