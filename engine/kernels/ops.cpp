#include "engine/kernels/ops.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "engine/core/status.h"
#include "engine/kernels/cpu/kv_blocks.h"
#include "engine/kernels/parallel.h"

namespace kvcrush {

bool use_cpu_kernels(const at::Device& device) {
  static const bool reference_only = [] {
    const char* wanted = std::getenv("KVCRUSH_REFERENCE_OPS");
    return wanted != nullptr && std::string_view(wanted) == "1";
  }();
  return device.is_cpu() && !reference_only;
}

LinearWeight make_linear_weight(const at::Tensor& weight, at::Device device) {
  KVCRUSH_CHECK(weight.is_cpu() && weight.is_contiguous() && weight.dim() == 2 &&
                weight.scalar_type() == at::kFloat);
  LinearWeight result;
  if (use_cpu_kernels(device)) {
    result.packed = cpu::PackedMatrix(weight.size(0), weight.size(1));
    result.packed.pack({weight.const_data_ptr<float>(), static_cast<std::size_t>(weight.numel())});
  } else {
    result.dense = weight.to(device);
  }
  return result;
}

namespace ops {

namespace {

void check_rows(const at::Tensor& t) {
  KVCRUSH_CHECK(t.dim() == 2 && t.is_contiguous() && t.scalar_type() == at::kFloat);
}

// body(row) for every row, many of them at a time: one row is less work than handing it to a thread.
template <typename Body>
void for_each_row(std::int64_t num_rows, const Body& body) {
  constexpr std::int64_t kRowsPerUnit = 32;
  parallel_for((num_rows + kRowsPerUnit - 1) / kRowsPerUnit, [&](std::int64_t unit, int) {
    const std::int64_t last = std::min(num_rows, (unit + 1) * kRowsPerUnit);
    for (std::int64_t row = unit * kRowsPerUnit; row < last; ++row) body(row);
  });
}

void check_same_rows(const at::Tensor& x, const at::Tensor& out) {
  check_rows(x);
  check_rows(out);
  KVCRUSH_CHECK(x.size(0) == out.size(0) && x.device() == out.device());
}

}  // namespace

void rms_norm(const at::Tensor& x, const at::Tensor& weight, float eps, at::Tensor& out) {
  check_same_rows(x, out);
  KVCRUSH_CHECK(x.size(1) == weight.numel() && x.size(1) == out.size(1));
  if (!use_cpu_kernels(x.device())) return reference::rms_norm(x, weight, eps, out);
  const auto n = static_cast<int>(x.size(1));
  const float* source = x.const_data_ptr<float>();
  const float* scale = weight.const_data_ptr<float>();
  float* target = out.data_ptr<float>();
  for_each_row(x.size(0), [&](std::int64_t row) {
    cpu::cpu_kernels().rms_norm_row(source + row * n, scale, eps, n, target + row * n);
  });
}

void rms_norm_add(const at::Tensor& x, const at::Tensor& weight, float eps, at::Tensor& out) {
  check_same_rows(x, out);
  KVCRUSH_CHECK(x.size(1) == weight.numel() && x.size(1) == out.size(1));
  if (!use_cpu_kernels(x.device())) return reference::rms_norm_add(x, weight, eps, out);
  const auto n = static_cast<int>(x.size(1));
  const float* source = x.const_data_ptr<float>();
  const float* scale = weight.const_data_ptr<float>();
  float* target = out.data_ptr<float>();
  for_each_row(x.size(0), [&](std::int64_t row) {
    cpu::cpu_kernels().rms_norm_add_row(source + row * n, scale, eps, n, target + row * n);
  });
}

void head_norms(at::Tensor& qkv, const HeadLayout& heads, const at::Tensor& q_weight,
                const at::Tensor& k_weight, float eps) {
  check_rows(qkv);
  const int n = heads.head_dim;
  KVCRUSH_CHECK(qkv.size(1) == heads.qkv_width() && q_weight.numel() == n && k_weight.numel() == n);
  if (!use_cpu_kernels(qkv.device())) return reference::head_norms(qkv, heads, q_weight, k_weight, eps);
  float* rows = qkv.data_ptr<float>();
  const float* q_scale = q_weight.const_data_ptr<float>();
  const float* k_scale = k_weight.const_data_ptr<float>();
  for_each_row(qkv.size(0), [&](std::int64_t row) {
    float* head = rows + row * heads.qkv_width();
    for (int h = 0; h < heads.num_heads + heads.num_kv_heads; ++h, head += n)
      cpu::cpu_kernels().rms_norm_row(head, h < heads.num_heads ? q_scale : k_scale, eps, n, head);
  });
}

void linear(const at::Tensor& x, const LinearWeight& w, cpu::QuantWorkspace& workspace, at::Tensor& out,
            bool accumulate) {
  check_same_rows(x, out);
  if (!use_cpu_kernels(x.device())) return reference::linear(x, w.dense, w.bias, out, accumulate);
  if (w.bias.defined()) {
    if (accumulate) {
      out.add_(w.bias);
    } else {
      out.copy_(w.bias.expand_as(out));
    }
    accumulate = true;
  }
  const auto num_rows = static_cast<int>(x.size(0));
  if (!w.quantized.empty()) {
    KVCRUSH_CHECK(x.size(1) == w.quantized.in_features() && out.size(1) == w.quantized.out_features());
    return cpu::quant_gemm(x.const_data_ptr<float>(), x.size(1), num_rows, w.quantized, workspace,
                           out.data_ptr<float>(), out.size(1), accumulate);
  }
  KVCRUSH_CHECK(x.size(1) == w.packed.in_features() && out.size(1) == w.packed.out_features());
  cpu::gemm(x.const_data_ptr<float>(), x.size(1), num_rows, w.packed, out.data_ptr<float>(), out.size(1),
            accumulate);
}

void gated_mul(const at::Tensor& gate_up, Activation activation, at::Tensor& out) {
  check_same_rows(gate_up, out);
  KVCRUSH_CHECK(gate_up.size(1) == 2 * out.size(1));
  if (!use_cpu_kernels(gate_up.device())) return reference::gated_mul(gate_up, activation, out);
  const auto n = static_cast<int>(out.size(1));
  const float* source = gate_up.const_data_ptr<float>();
  float* target = out.data_ptr<float>();
  const auto row_kernel =
      activation == Activation::kSilu ? cpu::cpu_kernels().silu_mul_row : cpu::cpu_kernels().gelu_mul_row;
  for_each_row(gate_up.size(0), [&](std::int64_t row) {
    const float* gate = source + row * 2 * n;
    row_kernel(gate, gate + n, n, target + row * n);
  });
}

void rope(at::Tensor& qkv, const HeadLayout& heads, std::span<const std::int32_t> positions,
          const at::Tensor& cos_sin) {
  check_rows(qkv);
  KVCRUSH_CHECK(qkv.size(1) == heads.qkv_width() &&
                qkv.size(0) == static_cast<std::int64_t>(positions.size()));
  if (!use_cpu_kernels(qkv.device())) return reference::rope(qkv, heads, positions, cos_sin);
  float* rows = qkv.data_ptr<float>();
  const float* table = cos_sin.const_data_ptr<float>();
  for_each_row(qkv.size(0), [&](std::int64_t row) {
    const float* cosines = table + std::int64_t{positions[static_cast<std::size_t>(row)]} * heads.head_dim;
    cpu::cpu_kernels().rope_row(rows + row * heads.qkv_width(), heads.num_heads + heads.num_kv_heads,
                                heads.head_dim, cosines, cosines + heads.head_dim / 2);
  });
}

void kv_append(const at::Tensor& qkv, const HeadLayout& heads, std::span<const PagedSequence> sequences,
               KvStorage& kv) {
  check_rows(qkv);
  if (!use_cpu_kernels(qkv.device())) return reference::kv_append(qkv, heads, sequences, kv);
  const cpu::KvPool pool = kv.cpu_pool();
  const float* rows = qkv.const_data_ptr<float>() + heads.num_heads * heads.head_dim;
  for (const PagedSequence& sequence : sequences) {
    parallel_for((sequence.num_queries + 63) / 64, [&](std::int64_t part, int) {
      const int last = std::min<int>(sequence.num_queries, static_cast<int>(part + 1) * 64);
      for (int i = static_cast<int>(part) * 64; i < last; ++i) {
        const int slot = sequence.cache.num_cached - sequence.num_queries + i;
        const float* k = rows + static_cast<std::int64_t>(sequence.query_start + i) * heads.qkv_width();
        cpu::write_token(pool, sequence.cache, slot, k, k + heads.num_kv_heads * heads.head_dim);
      }
    });
  }
}

void hadamard(at::Tensor& x, int head_dim) {
  check_rows(x);
  KVCRUSH_CHECK(x.size(1) % head_dim == 0);
  if (!use_cpu_kernels(x.device())) return reference::hadamard(x, head_dim);
  float* rows = x.data_ptr<float>();
  const auto num_heads = static_cast<int>(x.size(1) / head_dim);
  for_each_row(x.size(0), [&](std::int64_t row) {
    cpu::cpu_kernels().hadamard_heads(rows + row * x.size(1), num_heads, head_dim);
  });
}

void paged_attention(const at::Tensor& qkv, const HeadLayout& heads, std::span<const PagedSequence> sequences,
                     const KvStorage& kv, cpu::AttentionWorkspace& workspace, at::Tensor& out,
                     at::Tensor& row_stats) {
  check_same_rows(qkv, out);
  KVCRUSH_CHECK(out.size(1) == heads.num_heads * heads.head_dim);
  KVCRUSH_CHECK(row_stats.is_contiguous() && row_stats.numel() == 2 * out.size(0) * heads.num_heads);
  if (!use_cpu_kernels(qkv.device()))
    return reference::paged_attention(qkv, heads, sequences, kv, out, row_stats);
  cpu::paged_attention(sequences, kv.cpu_pool(), qkv.const_data_ptr<float>(), heads.qkv_width(),
                       heads.num_heads, 1.0f / std::sqrt(static_cast<float>(heads.head_dim)), workspace,
                       out.data_ptr<float>(), row_stats.data_ptr<float>());
}

}  // namespace ops
}  // namespace kvcrush
