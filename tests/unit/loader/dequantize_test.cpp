#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "engine/loader/half.h"
#include "engine/loader/model_file.h"
#include "engine/loader/weight_type.h"
#include "tests/unit/loader/builders.h"

namespace kvcrush {
namespace {

using testing::append;
using testing::Bytes;

constexpr HeadRows kInterleaved4{4, 4, true};

std::vector<float> read(WeightDtype dtype, std::vector<std::int64_t> shape, const Bytes& bytes,
                        const HeadRows& head_rows = {}) {
  const WeightView view{dtype, std::move(shape), testing::view(bytes), head_rows};
  std::vector<float> out(static_cast<std::size_t>(view.num_elements()));
  read_f32(view, out);
  return out;
}

// By the definition of binary16.
float half_by_definition(std::uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int mantissa = half & 1023;
  const float sign = (half & 0x8000) != 0 ? -1.0f : 1.0f;
  if (exponent == 31) return sign * (mantissa == 0 ? std::numeric_limits<float>::infinity() : std::nanf(""));
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
}

TEST(Half, AllValuesMatchTheDefinition) {
  for (int i = 0; i < 65536; ++i) {
    const auto half = static_cast<std::uint16_t>(i);
    const float expected = half_by_definition(half);
    const float actual = half_to_float(half);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(actual)) << i;
    } else {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(actual), std::bit_cast<std::uint32_t>(expected)) << i;
    }
  }
}

TEST(ReadF32, Float32AtAnyAddress) {
  Bytes bytes = {std::byte{7}};
  append(bytes, 1.5f);
  append(bytes, -2.25f);
  const WeightView view{WeightDtype::kF32, {2}, testing::view(bytes).subspan(1)};
  std::vector<float> out(2);
  read_f32(view, out);
  EXPECT_EQ(out, (std::vector<float>{1.5f, -2.25f}));
}

TEST(ReadF32, Float16) {
  Bytes bytes;
  for (const std::uint16_t half : {0x3c00, 0xc000, 0x0001, 0x8000, 0x7bff, 0xfc00}) append(bytes, half);
  const std::vector<float> out = read(WeightDtype::kF16, {2, 3}, bytes);
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], -2.0f);
  EXPECT_EQ(out[2], std::ldexp(1.0f, -24));
  EXPECT_TRUE(out[3] == 0.0f && std::signbit(out[3]));
  EXPECT_EQ(out[4], 65504.0f);
  EXPECT_EQ(out[5], -std::numeric_limits<float>::infinity());
}

TEST(ReadF32, Bfloat16) {
  Bytes bytes;
  for (const std::uint16_t value : {0x3f80, 0xc010, 0x7f80, 0x7fc0}) append(bytes, value);
  const std::vector<float> out = read(WeightDtype::kBF16, {4}, bytes);
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], -2.25f);
  EXPECT_TRUE(std::isinf(out[2]));
  EXPECT_TRUE(std::isnan(out[3]));
}

TEST(ReadF32, Q8_0) {
  Bytes bytes;
  for (const std::uint16_t scale : {0x3800, 0xc000}) {  // 0.5, -2
    append(bytes, scale);
    for (int i = 0; i < 32; ++i) append(bytes, static_cast<std::int8_t>(i == 31 ? -128 : i * 8 - 127));
  }
  const std::vector<float> out = read(WeightDtype::kQ8_0, {1, 64}, bytes);
  for (int i = 0; i < 32; ++i) {
    const float quant = i == 31 ? -128.0f : static_cast<float>(i * 8 - 127);
    EXPECT_EQ(out[static_cast<std::size_t>(i)], 0.5f * quant);
    EXPECT_EQ(out[static_cast<std::size_t>(32 + i)], -2.0f * quant);
  }
}

// Element i of a block has the nibble i % 16, element 16 + i the nibble 15 - i.
void append_nibbles(Bytes& bytes) {
  for (int i = 0; i < 16; ++i) append(bytes, static_cast<std::uint8_t>(i | ((15 - i) << 4)));
}

TEST(ReadF32, Q4_0) {
  Bytes bytes;
  append<std::uint16_t>(bytes, 0x3400);  // 0.25
  append_nibbles(bytes);
  const std::vector<float> out = read(WeightDtype::kQ4_0, {32}, bytes);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(out[static_cast<std::size_t>(i)], 0.25f * static_cast<float>(i - 8));
    EXPECT_EQ(out[static_cast<std::size_t>(16 + i)], 0.25f * static_cast<float>(7 - i));
  }
}

// Any bits, but for the factors in front of them.
Bytes random_blocks(int num_blocks, std::size_t block_bytes, int num_factors) {
  std::mt19937 rng(1);
  Bytes bytes;
  for (int b = 0; b < num_blocks; ++b) {
    for (int i = 0; i < num_factors; ++i) append(bytes, static_cast<std::uint16_t>(0x2000 + rng() % 0x1800));
    for (std::size_t i = 2 * static_cast<std::size_t>(num_factors); i < block_bytes; ++i)
      append(bytes, static_cast<std::uint8_t>(rng()));
  }
  return bytes;
}

TEST(ReadCodes, StandForTheSameValues) {
  struct Case {
    WeightDtype dtype;
    int num_factors;
  };
  for (const Case& c :
       {Case{WeightDtype::kQ4_0, 1}, Case{WeightDtype::kQ4_1, 2}, Case{WeightDtype::kQ4_K, 2}}) {
    SCOPED_TRACE(weight_dtype_name(c.dtype));
    ASSERT_TRUE(has_coded_blocks(c.dtype));
    const WeightBlock block = weight_block(c.dtype);
    constexpr std::int64_t kColumns = 512;
    const Bytes bytes = random_blocks(static_cast<int>(4 * kColumns / block.num_elements),
                                      static_cast<std::size_t>(block.num_bytes), c.num_factors);
    const WeightView view{c.dtype, {4, kColumns}, testing::view(bytes), kInterleaved4};
    for (std::int64_t row = 0; row < 4; ++row) {
      std::vector<CodedBlock> codes(kColumns / 32);
      std::vector<float> values(kColumns);
      read_coded_row(view, row, codes);
      read_row_f32(view, row, values);
      for (std::size_t i = 0; i < values.size(); ++i) {
        const CodedBlock& coded = codes[i / 32];
        const float code = coded.codes[i % 32];
        // Q4_0 means (code - 8) step: one rounding fewer.
        ASSERT_NEAR(coded.step * code + coded.minimum, values[i], 1e-6f * std::abs(coded.step) * 16)
            << row << ", " << i;
      }
    }
  }
}

TEST(ReadCodes, OnlyWhereTheFileHasCodesOfFourBits) {
  for (const WeightDtype dtype :
       {WeightDtype::kF32, WeightDtype::kQ8_0, WeightDtype::kQ5_K, WeightDtype::kIQ4_NL})
    EXPECT_FALSE(has_coded_blocks(dtype)) << weight_dtype_name(dtype);
}

TEST(ReadF32, Q4_1) {
  Bytes bytes;
  append<std::uint16_t>(bytes, 0x3400);  // 0.25
  append<std::uint16_t>(bytes, 0xbc00);  // -1
  append_nibbles(bytes);
  const std::vector<float> out = read(WeightDtype::kQ4_1, {1, 32}, bytes);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(out[static_cast<std::size_t>(i)], 0.25f * static_cast<float>(i) - 1.0f);
    EXPECT_EQ(out[static_cast<std::size_t>(16 + i)], 0.25f * static_cast<float>(15 - i) - 1.0f);
  }
}

// The converter's permutation of one head of 6 rows stores model rows 0..5 as 0, 3, 1, 4, 2, 5.
TEST(ReadF32, UndoesTheInterleavingOfEachHead) {
  const Bytes bytes = testing::f32_bytes({0,   1,   30,  31,  10,  11,  40,  41,  20,  21,  50,  51,  //
                                          100, 101, 130, 131, 110, 111, 140, 141, 120, 121, 150, 151});
  const std::vector<float> out = read(WeightDtype::kF32, {12, 2}, bytes, {6, 6, true});
  const std::vector<float> expected = {0,   1,   10,  11,  20,  21,  30,  31,  40,  41,  50,  51,
                                       100, 101, 110, 111, 120, 121, 130, 131, 140, 141, 150, 151};
  EXPECT_EQ(out, expected);
}

TEST(ReadF32, UndoesTheInterleavingOfQuantisedRows) {
  Bytes bytes;
  for (int row = 0; row < 4; ++row) {
    append<std::uint16_t>(bytes, 0x3c00);
    for (int i = 0; i < 32; ++i) append(bytes, static_cast<std::int8_t>(row));
  }
  const std::vector<float> out = read(WeightDtype::kQ8_0, {4, 32}, bytes, kInterleaved4);
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_EQ(out[32], 2.0f);
  EXPECT_EQ(out[64], 1.0f);
  EXPECT_EQ(out[96], 3.0f);
}

TEST(ReadF32, UndoesTheInterleavingOfABias) {
  const Bytes bytes = testing::f32_bytes({0, 2, 1, 3, 4, 6, 5, 7});
  EXPECT_EQ(read(WeightDtype::kF32, {8}, bytes, kInterleaved4), (std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7}));
}

TEST(WeightType, SizesAndImpossibleShapes) {
  using Shape = std::vector<std::int64_t>;
  EXPECT_EQ(checked_num_bytes(WeightDtype::kQ4_1, Shape{3, 64}), 3 * 2 * 20);
  EXPECT_EQ(checked_num_bytes(WeightDtype::kBF16, Shape{3, 5}), 30);
  EXPECT_EQ(checked_num_bytes(WeightDtype::kQ4_1, Shape{32, 31}), std::nullopt);  // no whole blocks in a row
  EXPECT_EQ(checked_num_bytes(WeightDtype::kF32, Shape{}), std::nullopt);
  EXPECT_EQ(checked_num_bytes(WeightDtype::kF32, Shape{4, 0}), std::nullopt);
  EXPECT_EQ(checked_num_bytes(WeightDtype::kF32, Shape{4, -1}), std::nullopt);
  EXPECT_EQ(checked_num_bytes(WeightDtype::kF32, Shape{std::int64_t{1} << 40, std::int64_t{1} << 40}),
            std::nullopt);
}

// The rotated rows of a head come in pairs half a head apart, whatever part of the head they are.
TEST(HeadRows, PartlyRotatedHeads) {
  const auto order = [](const HeadRows& rows) {
    std::vector<std::int64_t> stored;
    for (std::int64_t row = 0; row < 2 * rows.head_dim; ++row) stored.push_back(rows.stored(row));
    return stored;
  };
  EXPECT_EQ(order({8, 4, false}),
            (std::vector<std::int64_t>{0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15}));
  EXPECT_EQ(order({8, 4, true}),
            (std::vector<std::int64_t>{0, 2, 4, 5, 1, 3, 6, 7, 8, 10, 12, 13, 9, 11, 14, 15}));
  EXPECT_EQ(order({4, 4, false}), (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(HeadRows{}.stored(5), 5);
}

TEST(ReadF32, ScalesAndMoves) {
  Bytes bytes;
  append(bytes, 1.5f);
  append(bytes, -2.0f);
  WeightView view{WeightDtype::kF32, {2}, testing::view(bytes)};
  view.scale = 2.0f;
  view.offset = 1.0f;
  std::vector<float> out(2);
  read_f32(view, out);
  EXPECT_EQ(out, (std::vector<float>{4.0f, -3.0f}));
}

}  // namespace
}  // namespace kvcrush
