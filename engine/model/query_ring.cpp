#include "engine/model/query_ring.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

#include "engine/core/status.h"

namespace kvcrush {

QueryRing::QueryRing(int num_layers, int window_tokens, int query_width, at::Device device)
    : window_tokens_(window_tokens),
      query_width_(query_width),
      ring_(at::empty({num_layers, window_tokens, query_width},
                      at::TensorOptions(at::kFloat).device(device))) {}

void QueryRing::record(int layer, const at::Tensor& qkv, int first_row, int num_tokens, int first_position) {
  const int first = std::max(0, num_tokens - window_tokens_);
  for (int i = first; i < num_tokens; ++i) {
    const std::int64_t slot = (first_position + i) % window_tokens_;
    if (ring_.is_cpu()) {
      float* target =
          ring_.data_ptr<float>() + (static_cast<std::int64_t>(layer) * window_tokens_ + slot) * query_width_;
      const float* source = qkv.const_data_ptr<float>() + (first_row + i) * qkv.size(1);
      std::memcpy(target, source, sizeof(float) * query_width_);
    } else {
      ring_[layer][slot].copy_(qkv[first_row + i].narrow(0, 0, query_width_));
    }
  }
}

std::vector<const float*> QueryRing::rows(int layer, int end_position) const {
  KVCRUSH_CHECK(end_position >= window_tokens_);
  std::vector<const float*> rows(window_tokens_);
  const float* base =
      ring_.const_data_ptr<float>() + static_cast<std::int64_t>(layer) * window_tokens_ * query_width_;
  for (int i = 0; i < window_tokens_; ++i) {
    const std::int64_t slot = (end_position - window_tokens_ + i) % window_tokens_;
    rows[i] = base + slot * query_width_;
  }
  return rows;
}

at::Tensor QueryRing::gather(int layer, int end_position) const {
  // The oldest position sits at end_position % window: rotate it to the front.
  return ring_[layer].roll(-(end_position % window_tokens_), 0);
}

}  // namespace kvcrush
