// From the QKV projection to the cache on a GPU, run by the simulator, against the ATen reference.
#include <memory>

#include "engine/kernels/cpu/cpu_kernels.h"
#include "engine/kernels/cuda/elementwise.h"
#include "tests/kernels/cuda_row_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)
using cuda::ActivationType;

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
                     .bias = floats_or_null(extras.bias),
                     .q_norm = floats_or_null(extras.q_norm),
                     .k_norm = floats_or_null(extras.k_norm),
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
