// Compiled once per instruction set with KVCRUSH_ISA naming it; see engine/kernels/CMakeLists.txt.
#include "engine/kernels/cpu/attention_amx.inc"
#include "engine/kernels/cpu/elementwise.inc"
#include "engine/kernels/cpu/gather.inc"
#include "engine/kernels/cpu/gemm.inc"
#include "engine/kernels/cpu/observation.inc"
#include "engine/kernels/cpu/quant_panels.inc"
#include "engine/kernels/cpu/softmax.inc"

#define KVCRUSH_CONCAT_(a, b) a##b
#define KVCRUSH_CONCAT(a, b) KVCRUSH_CONCAT_(a, b)
#define KVCRUSH_STRING_(a) #a
#define KVCRUSH_STRING(a) KVCRUSH_STRING_(a)

namespace kvcrush::cpu {

extern const KernelTable KVCRUSH_CONCAT(kernel_table_, KVCRUSH_ISA);
const KernelTable KVCRUSH_CONCAT(kernel_table_, KVCRUSH_ISA) = {
    .isa = KVCRUSH_STRING(KVCRUSH_ISA),
    .panel_width = kPanel,
    .pack_panel = pack_panel,
    .gemm_panels = gemm_panels,
    .quantize_row = quantize_row,
    .quant_panels = quant_panels,
    .rms_norm_row = rms_norm_row,
    .rms_norm_add_row = rms_norm_add_row,
    .silu_mul_row = silu_mul_row,
    .gelu_mul_row = gelu_mul_row,
    .rope_row = rope_row,
    .hadamard_heads = hadamard_heads,
    .attention = attention,
#if defined(__AMX_BF16__)
    .attention_bf16 = attention_bf16,
#else
    .attention_bf16 = nullptr,
#endif
    .merge_partials = merge_partials,
    .probability_sums = probability_sums,
    .key_scores = key_scores,
    .value_norms = value_norms,
    .gather_block = gather_block,
    .largest_logit = largest_logit,
    .sum_weights = sum_weights,
    .to_weights = to_weights,
};

}  // namespace kvcrush::cpu
