// The GPU's row-wise kernels, run by the simulator, against the ATen reference.
#include "engine/kernels/cuda/elementwise.h"

#include <gtest/gtest.h>

#include <memory>

#include "engine/kernels/cpu/cpu_kernels.h"
#include "tests/kernels/kernel_fixture.h"

namespace kvcrush {
namespace {

using cuda::ActivationType;
using testing::PagedCase;
using testing::random_tensor;
using testing::SequenceShape;

constexpr ActivationType kActivationTypes[] = {ActivationType::kF32, ActivationType::kF16,
                                               ActivationType::kBF16};
constexpr int kHeadDims[] = {16, 32, 48, 64, 80, 96, 112, 128, 192, 240, 256};

at::ScalarType scalar_type(ActivationType activations) {
  if (activations == ActivationType::kF32) return at::kFloat;
  return activations == ActivationType::kF16 ? at::kHalf : at::kBFloat16;
}

// One unit in the last place, relative to the value; of float32 a few, for sums in another order.
double unit_of(at::ScalarType type) {
  return type == at::kFloat ? std::ldexp(1.0, -20) : std::ldexp(1.0, type == at::kHalf ? -10 : -7);
}

// Both round float32 results, which differ by rounding alone: at most one unit of `actual`'s dtype, and where
// sums cancel, 2^-24 of terms of up to 16 in eight stages. NaN equals NaN.
void expect_close(const at::Tensor& actual, const at::Tensor& expected, const std::string& what) {
  ASSERT_EQ(actual.sizes(), expected.sizes());
  EXPECT_TRUE(at::allclose(actual.to(at::kFloat), expected.to(at::kFloat), unit_of(actual.scalar_type()),
                           std::ldexp(1.0, -17), /*equal_nan=*/true))
      << what << ": " << testing::max_difference(actual.nan_to_num(), expected.nan_to_num());
}

class CudaActivationTest : public ::testing::TestWithParam<ActivationType> {
 protected:
  at::ScalarType type() const { return scalar_type(GetParam()); }
};

TEST_P(CudaActivationTest, RmsNormAddsAndNormalises) {
  for (const int width : {1, 8, 100, 2048, 4096, 4104, 8200, 16384, 16392, 4099}) {
    for (const auto& [with_delta, chosen_rows] :
         {std::pair{false, false}, {false, true}, {true, false}, {true, true}}) {
      at::Tensor hidden = random_tensor({4, width}, 3) * 4;
      const at::Tensor delta = random_tensor({4, width}, 4).to(type());
      const at::Tensor weight = random_tensor({width}, 5);
      const at::Tensor ids = chosen_rows ? at::tensor({3, 0}, at::kInt) : at::arange(4, at::kInt);
      const at::Tensor sums = (with_delta ? hidden + delta.to(at::kFloat) : hidden).index_select(0, ids);
      const at::Tensor all = hidden.index_copy(0, ids.to(at::kLong), sums);  // others are not touched
      at::Tensor expected = at::empty_like(sums);
      reference::rms_norm(sums, weight, 1e-5F, expected);
      at::Tensor out = at::full(sums.sizes(), NAN, type());
      cuda::rms_norm({.num_rows = static_cast<int>(ids.numel()),
                      .width = width,
                      .eps = 1e-5F,
                      .activations = GetParam(),
                      .hidden = hidden.data_ptr<float>(),
                      .delta = with_delta ? delta.const_data_ptr() : nullptr,
                      .weight = weight.const_data_ptr<float>(),
                      .row_ids = chosen_rows ? ids.const_data_ptr<std::int32_t>() : nullptr,
                      .out = out.data_ptr()},
                     nullptr);
      EXPECT_TRUE(at::equal(hidden, all)) << width;
      expect_close(out, expected, "width " + std::to_string(width));
    }
  }
}

TEST_P(CudaActivationTest, SiluMul) {
  for (const int width : {1, 8, 13, 300, 2048, 2056, 4104}) {
    at::Tensor gate_up = random_tensor({3, 2 * width}, 8) * 3;
    gate_up.select(1, 0).copy_(at::tensor({-200.0F, 200.0F, 0.0F}));  // exp() overflows, or vanishes
    gate_up = gate_up.to(type());
    at::Tensor expected = at::empty({3, width}, at::kFloat);
    reference::gated_mul(gate_up.to(at::kFloat), Activation::kSilu, expected);
    at::Tensor out = at::full({3, width}, NAN, type());
    cuda::silu_mul({.num_rows = 3,
                    .width = width,
                    .activations = GetParam(),
                    .gate_up = gate_up.const_data_ptr(),
                    .out = out.data_ptr()},
                   nullptr);
    expect_close(out, expected, "width " + std::to_string(width));
  }
}

TEST_P(CudaActivationTest, EmbeddingRows) {
  for (const int width : {8, 51, 2080}) {
    const at::Tensor table = random_tensor({11, width}, 9).to(type());
    const at::Tensor ids = at::tensor({10, 0, 3, 3}, at::kInt);
    at::Tensor hidden = at::full({4, width}, NAN, at::kFloat);
    cuda::embed({.num_rows = 4,
                 .width = width,
                 .activations = GetParam(),
                 .table = table.const_data_ptr(),
                 .token_ids = ids.const_data_ptr<std::int32_t>(),
                 .hidden = hidden.data_ptr<float>()},
                nullptr);
    EXPECT_TRUE(at::equal(hidden, table.index_select(0, ids.to(at::kLong)).to(at::kFloat)));
  }
}

TEST_P(CudaActivationTest, Hadamard) {
  for (const int head_dim : kHeadDims) {
    at::Tensor x = random_tensor({5, 3 * head_dim}, 10).to(type());
    at::Tensor expected = x.to(at::kFloat, false, /*copy=*/true);
    reference::hadamard(expected, head_dim);
    cuda::hadamard(
        {.num_rows = 5, .num_heads = 3, .head_dim = head_dim, .activations = GetParam(), .x = x.data_ptr()},
        nullptr);
    expect_close(x, expected, "head_dim " + std::to_string(head_dim));
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaActivationTest, ::testing::ValuesIn(kActivationTypes));

TEST(CudaElementwise, NoRowsAreNoLaunch) {  // which the simulator would refuse
  cuda::rms_norm({}, nullptr);
  cuda::silu_mul({}, nullptr);
  cuda::embed({}, nullptr);
  cuda::hadamard({}, nullptr);
  cuda::rope_append({}, nullptr);
}

// What a layer may do to the result of its QKV projection before RoPE.
struct Extras {
  at::Tensor bias, q_norm, k_norm;  // [qkv_width], [D], [D]
};
Extras make_extras(const HeadLayout& heads, bool bias, bool norms) {
  return {bias ? random_tensor({heads.qkv_width()}, 51) : at::Tensor(),
          norms ? random_tensor({heads.head_dim}, 52) : at::Tensor(),
          norms ? random_tensor({heads.head_dim}, 53) : at::Tensor()};
}
constexpr float kNormEps = 1e-6F;
const float* data_or_null(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<float>() : nullptr;
}

struct Rope {
  at::Tensor table;  // [40, D]
  std::vector<std::int32_t> positions;

  Rope(int head_dim, std::int64_t num_tokens) {
    const at::Tensor angles = random_tensor({40, head_dim / 2}, 61) * 3;
    table = at::cat({angles.cos(), angles.sin()}, 1);
    for (int i = 0; i < num_tokens; ++i) positions.push_back((7 * i + 3) % 40);
  }
};

// qkv float32, and the cache, as the decoder's separate operations leave them.
void append_by_reference(PagedCase& paged, at::Tensor& qkv, const Extras& extras, const Rope& rope) {
  const HeadLayout& heads = paged.heads;
  if (extras.bias.defined()) qkv.add_(extras.bias);
  const auto norm = [&](int first, int count, const at::Tensor& weight) {
    if (!weight.defined()) return;
    at::Tensor part = qkv.unflatten(1, {-1, heads.head_dim}).narrow(1, first, count);
    reference::rms_norm(part, weight, kNormEps, part);
  };
  norm(0, heads.num_heads, extras.q_norm);
  norm(heads.num_heads, heads.num_kv_heads, extras.k_norm);
  reference::rope(qkv, heads, rope.positions, rope.table);
  reference::hadamard(qkv, heads.head_dim);
  reference::kv_append(qkv, heads, paged.sequences, paged.kv);
}

void append_on_gpu(PagedCase& paged, at::Tensor& qkv, ActivationType activations, const Extras& extras,
                   const Rope& rope) {
  std::vector<std::int32_t> sequence_of_token;
  for (std::int32_t i = 0; const PagedSequence& sequence : paged.sequences)
    sequence_of_token.resize(sequence_of_token.size() + static_cast<std::size_t>(sequence.num_queries), i++);
  cuda::rope_append({.num_tokens = static_cast<int>(qkv.size(0)),
                     .num_heads = paged.heads.num_heads,
                     .pool = paged.kv.cpu_pool(),
                     .activations = activations,
                     .qkv = qkv.data_ptr(),
                     .sequences = paged.sequences.data(),
                     .sequence_of_token = sequence_of_token.data(),
                     .positions = rope.positions.data(),
                     .cos_sin = rope.table.const_data_ptr<float>(),
                     .bias = data_or_null(extras.bias),
                     .q_norm = data_or_null(extras.q_norm),
                     .k_norm = data_or_null(extras.k_norm),
                     .norm_eps = kNormEps},
                    nullptr);
}

at::Tensor queries_of(const at::Tensor& qkv, const HeadLayout& heads) {
  return qkv.narrow(1, 0, heads.num_heads * heads.head_dim);
}

// The whole pool, numbers of the tail's dtype. Slots nobody wrote are NaN and stay so.
at::Tensor pool_of(const PagedCase& paged) {
  if (paged.format.tail == KvDtype::kF32) return paged.kv.bytes().view(at::kFloat);
  return paged.kv.bytes().view(paged.format.tail == KvDtype::kF16 ? at::kHalf : at::kBFloat16);
}

void expect_same_append(const PagedCase& actual, const at::Tensor& qkv, const PagedCase& expected,
                        const at::Tensor& expected_qkv) {
  expect_close(queries_of(qkv, actual.heads), queries_of(expected_qkv, actual.heads), "queries");
  expect_close(pool_of(actual), pool_of(expected), "pool");
}

const std::vector<SequenceShape> kShapes = {{1, 1}, {37, 37}, {40, 5}, {19, 1}, {150, 18}};

class CudaRopeAppendTest : public ::testing::TestWithParam<std::tuple<int, KvDtype>> {};

TEST_P(CudaRopeAppendTest, MatchesReference) {
  const auto [head_dim, dtype] = GetParam();
  const HeadLayout heads{.num_heads = 4, .num_kv_heads = 1 + head_dim / 16 % 2, .head_dim = head_dim};
  int variant = head_dim / 16 + static_cast<int>(dtype);
  for (const ActivationType activations : kActivationTypes) {
    const Extras extras = make_extras(heads, variant % 2 == 0, variant / 2 % 2 == 0);
    ++variant;
    PagedCase expected(heads, dtype, kShapes, 23);
    PagedCase actual(heads, dtype, kShapes, 23);
    const Rope rope(head_dim, actual.qkv.size(0));
    at::Tensor qkv = actual.qkv.to(scalar_type(activations), false, /*copy=*/true);
    at::Tensor expected_qkv = qkv.to(at::kFloat, false, /*copy=*/true);
    append_by_reference(expected, expected_qkv, extras, rope);
    append_on_gpu(actual, qkv, activations, extras, rope);
    expect_same_append(actual, qkv, expected, expected_qkv);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaRopeAppendTest,
                         ::testing::Combine(::testing::ValuesIn(kHeadDims),
                                            ::testing::Values(KvDtype::kF32, KvDtype::kBF16, KvDtype::kF16,
                                                              KvDtype::kInt8, KvDtype::kInt4)));

// Where 1 / sqrt(head_dim) is a power of two, operations are those of the CPU: every byte is the same.
TEST(CudaRopeAppend, ExactWithFloatActivations) {
  for (const int head_dim : {16, 64, 256}) {
    for (const KvDtype dtype : {KvDtype::kF32, KvDtype::kBF16, KvDtype::kF16}) {
      const HeadLayout heads{.num_heads = 3, .num_kv_heads = 1, .head_dim = head_dim};
      PagedCase expected(heads, dtype, kShapes, 31);
      PagedCase actual(heads, dtype, kShapes, 31);
      const Rope rope(head_dim, actual.qkv.size(0));
      reference::rope(expected.qkv, heads, rope.positions, rope.table);
      cpu::cpu_kernels().hadamard_heads(expected.qkv.data_ptr<float>(),
                                        static_cast<int>(expected.qkv.numel() / head_dim), head_dim);
      reference::kv_append(expected.qkv, heads, expected.sequences, expected.kv);
      append_on_gpu(actual, actual.qkv, ActivationType::kF32, {}, rope);
      EXPECT_TRUE(at::equal(queries_of(actual.qkv, heads), queries_of(expected.qkv, heads))) << head_dim;
      EXPECT_TRUE(at::equal(actual.kv.bytes(), expected.kv.bytes())) << head_dim;
    }
  }
}

// So many tokens that a block takes several heads, of each kind.
TEST(CudaRopeAppend, LongPrefill) {
  const HeadLayout heads{.num_heads = 1, .num_kv_heads = 8, .head_dim = 32};
  const std::vector<SequenceShape> long_shapes = {{3, 3}, {4200, 4100}};
  PagedCase expected(heads, KvDtype::kF16, long_shapes, 41);
  PagedCase actual(heads, KvDtype::kF16, long_shapes, 41);
  const Rope rope(heads.head_dim, actual.qkv.size(0));
  const Extras extras = make_extras(heads, true, false);
  append_by_reference(expected, expected.qkv, extras, rope);
  append_on_gpu(actual, actual.qkv, ActivationType::kF32, extras, rope);
  expect_same_append(actual, actual.qkv, expected, expected.qkv);
}

// Sequences of any dtypes may be in a batch; here they share a block of tokens.
TEST(CudaRopeAppend, SequencesOfDifferentFormats) {
  const HeadLayout heads{.num_heads = 2, .num_kv_heads = 2, .head_dim = 128};
  const std::vector<SequenceShape> few = {{40, 3}, {21, 4}, {70, 5}, {33, 2}};
  const KvDtype dtypes[] = {KvDtype::kF32, KvDtype::kBF16, KvDtype::kInt4, KvDtype::kInt8};
  const auto make = [&] {
    auto paged = std::make_unique<PagedCase>(heads, KvDtype::kF32, few, 47);
    for (std::size_t i = 0; i < few.size(); ++i) {
      cpu::CachedLayer& cache = paged->sequences[i].cache;
      cache = paged->new_cache(few[i], make_kv_format(dtypes[i], heads.head_dim));
      paged->fill_earlier_tokens(cache, few[i].num_cached - few[i].num_queries, 48 + i);
    }
    return paged;
  };
  const auto expected = make();
  const auto actual = make();
  const Rope rope(heads.head_dim, actual->qkv.size(0));
  const Extras extras = make_extras(heads, false, true);
  append_by_reference(*expected, expected->qkv, extras, rope);
  append_on_gpu(*actual, actual->qkv, ActivationType::kF32, extras, rope);
  const at::ScalarType tails[] = {at::kFloat, at::kBFloat16, at::kHalf, at::kHalf};
  for (std::size_t i = 0; i < few.size(); ++i) {
    const auto [k, v] = reference::read_cached(actual->sequences[i].cache, actual->kv);
    const auto [expected_k, expected_v] = reference::read_cached(expected->sequences[i].cache, expected->kv);
    expect_close(at::stack({k, v}).to(tails[i]), at::stack({expected_k, expected_v}),
                 "sequence " + std::to_string(i));
  }
}

}  // namespace
}  // namespace kvcrush
