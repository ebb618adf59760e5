#include "engine/model/value_projection.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace kvcrush {

at::Tensor make_value_projection(const at::Tensor& output, const HeadLayout& heads, int rank) {
  at::Tensor rotated = output.clone();
  ops::hadamard(rotated, heads.head_dim);  // rows times H: W_o V = (W_o H)(H V)
  const at::Tensor by_head = rotated.unflatten(1, {heads.num_heads, heads.head_dim}).permute({1, 0, 2});
  const at::Tensor gram = at::matmul(by_head.transpose(1, 2), by_head);  // [Hq, D, D]
  const auto [values, vectors] = at::linalg_eigh(gram.to(at::kDouble));  // ascending
  const std::int64_t kept = std::min<std::int64_t>(rank, heads.head_dim);
  const std::int64_t first = heads.head_dim - kept;
  const at::Tensor scale = values.narrow(1, first, kept).clamp_min(0).sqrt().unsqueeze(-1);
  return (vectors.narrow(2, first, kept).transpose(1, 2) * scale).to(at::kFloat).contiguous();
}

}  // namespace kvcrush
