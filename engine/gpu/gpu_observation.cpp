#include "engine/gpu/gpu_observation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

namespace kvcrush {

namespace {

constexpr std::int64_t kLeastSumSlots = 1024;

}  // namespace

GpuObservation::GpuObservation(const HeadLayout& heads, int num_layers, const ObservationNeeds& needs,
                               at::Device device)
    : heads_(heads), needs_(needs), num_dropped_(static_cast<std::size_t>(num_layers), 0) {
  const auto options = at::TensorOptions(at::kFloat).device(device);
  queries_ =
      at::empty({num_layers, needs.ring_rows(), heads.num_heads * heads.head_dim}, options.dtype(at::kHalf));
  stats_ = at::empty({num_layers, needs.ring_rows(), heads.num_heads, 2}, options);
  if (needs.attention_sums)
    sums_.assign(static_cast<std::size_t>(num_layers), at::zeros({heads.num_heads, 0}, options));
}

GpuObservation GpuObservation::clone_for(const ObservationNeeds& needs) const {
  GpuObservation copy(*this);
  copy.needs_ = narrowed(needs_, needs);
  if (copy.needs_.num_queries > 0) {
    copy.queries_ = queries_.clone();
    copy.stats_ = stats_.clone();
  }
  if (!copy.needs_.attention_sums) copy.sums_.clear();
  for (at::Tensor& sums : copy.sums_) sums = sums.clone();
  return copy;
}

at::Tensor GpuObservation::sums(int layer, int num_slots) {
  at::Tensor& sums = sums_[static_cast<std::size_t>(layer)];
  if (sums.size(1) < num_slots) {
    const std::int64_t capacity = std::max({kLeastSumSlots, std::int64_t{num_slots}, sums.size(1) * 2});
    at::Tensor larger = at::zeros({sums.size(0), capacity}, sums.options());
    larger.narrow(1, 0, sums.size(1)).copy_(sums);
    sums = larger;
  }
  return sums;
}

void GpuObservation::drop_sums(int layer, int num_dropped) {
  if (!needs_.attention_sums) return;
  int& known = num_dropped_[static_cast<std::size_t>(layer)];
  const int count = std::exchange(known, num_dropped);
  if (num_dropped == count) return;
  at::Tensor& sums = sums_[static_cast<std::size_t>(layer)];
  const std::int64_t gone = std::min<std::int64_t>(num_dropped - count, sums.size(1));
  const std::int64_t left = sums.size(1) - gone;
  sums.narrow(1, 0, left).copy_(sums.narrow(1, gone, left).clone());
  sums.narrow(1, left, gone).zero_();
}

void GpuObservation::keep_sums(int layer, const at::Tensor& kept) {
  at::Tensor& sums = sums_[static_cast<std::size_t>(layer)];
  const at::Tensor sources = kept.to(at::kLong).repeat_interleave(sums.size(0) / kept.size(0), 0);
  const at::Tensor moved = at::gather(sums, 1, sources);
  sums.zero_();
  sums.narrow(1, 0, moved.size(1)).copy_(moved);
}

}  // namespace kvcrush
