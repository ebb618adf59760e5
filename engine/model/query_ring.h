// The rotated queries of a sequence's last `window` positions, per layer: what SnapKV observes when the cache
// is pruned. Kept only for sequences that compress. A ring by logical position, so it does not matter how the
// prompt was cut into chunks.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace kvcrush {

class QueryRing {
 public:
  QueryRing(int num_layers, int window_tokens, int query_width, at::Device device);

  int window_tokens() const { return window_tokens_; }
  // Rows [first_row, first_row + num_tokens) of qkv hold logical positions [first_position, ...); columns [0,
  // query_width).
  void record(int layer, const at::Tensor& qkv, int first_row, int num_tokens, int first_position);
  // Rows of the last window_tokens positions before `end_position`, oldest first (CPU only).
  std::vector<const float*> rows(int layer, int end_position) const;
  // The same as a tensor [window_tokens, query_width], on any device.
  at::Tensor gather(int layer, int end_position) const;

 private:
  int window_tokens_;
  int query_width_;
  at::Tensor ring_;  // [num_layers, window_tokens, query_width]; position p lives in row p % window_tokens
};

}  // namespace kvcrush
