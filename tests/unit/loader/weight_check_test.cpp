#include "engine/loader/weight_check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/loader/weight_type.h"
#include "tests/unit/loader/builders.h"

namespace kvcrush {
namespace {

using testing::Bytes;

struct TypeCase {
  WeightDtype dtype;
  std::vector<std::size_t> float_offsets;  // bytes in a block
};

const std::vector<TypeCase>& type_cases() {
  static const std::vector<TypeCase> cases = {
      {WeightDtype::kF32, {0}},    {WeightDtype::kF16, {0}},     {WeightDtype::kBF16, {0}},
      {WeightDtype::kQ8_0, {0}},   {WeightDtype::kQ4_0, {0}},    {WeightDtype::kQ4_1, {0, 2}},
      {WeightDtype::kQ5_0, {0}},   {WeightDtype::kQ5_1, {0, 2}}, {WeightDtype::kQ2_K, {80, 82}},
      {WeightDtype::kQ3_K, {108}}, {WeightDtype::kQ4_K, {0, 2}}, {WeightDtype::kQ5_K, {0, 2}},
      {WeightDtype::kQ6_K, {208}}, {WeightDtype::kIQ4_NL, {0}},  {WeightDtype::kIQ4_XS, {0}}};
  return cases;
}

constexpr std::int64_t kRows = 3000;  // more than one piece of work for the larger types
constexpr std::int64_t kWidth = 512;

// One matrix of the type whose floats are all 1.0 or, in 16 bits, finite.
struct Sample {
  Bytes bytes;
  ModelFile model;
};

Sample make_sample(const TypeCase& type) {
  Sample sample;
  WeightView view;
  view.dtype = type.dtype;
  view.shape = {kRows, kWidth};
  view.stored = {"some.gguf", "blk.0.ffn_up.weight"};
  // Every byte that is no float has all bits set: no integer may be taken for one.
  sample.bytes.assign(static_cast<std::size_t>(*checked_num_bytes(type.dtype, view.shape)), std::byte{0xff});
  const auto block_bytes = static_cast<std::size_t>(weight_block(type.dtype).num_bytes);
  for (std::size_t at = 0; at < sample.bytes.size(); at += block_bytes) {
    for (const std::size_t offset : type.float_offsets) {
      const std::uint16_t one_half = 0x7bff;  // float16's largest
      const float one_float = std::numeric_limits<float>::max();
      if (type.dtype == WeightDtype::kF32)
        std::memcpy(&sample.bytes[at + offset], &one_float, sizeof(float));
      else
        std::memcpy(&sample.bytes[at + offset], &one_half, sizeof(one_half));
    }
  }
  view.bytes = sample.bytes;
  sample.model.weights["layers.0.up_proj"] = view;
  return sample;
}

void put(Sample& sample, const TypeCase& type, std::int64_t block, std::size_t offset, bool nan) {
  const auto at = static_cast<std::size_t>(block * weight_block(type.dtype).num_bytes) + offset;
  if (type.dtype == WeightDtype::kF32) {
    const float value =
        nan ? std::numeric_limits<float>::quiet_NaN() : -std::numeric_limits<float>::infinity();
    std::memcpy(&sample.bytes[at], &value, sizeof(value));
    return;
  }
  const std::uint16_t infinity = type.dtype == WeightDtype::kBF16 ? 0xff80 : 0xfc00;
  const std::uint16_t value = nan ? static_cast<std::uint16_t>(infinity | 1) : infinity;
  std::memcpy(&sample.bytes[at], &value, sizeof(value));
}

TEST(WeightCheck, EveryTypeAndPlace) {
  for (const TypeCase& type : type_cases()) {
    const std::string name(weight_dtype_name(type.dtype));
    Sample sample = make_sample(type);
    EXPECT_TRUE(check_finite(sample.model, 2).ok()) << name;
    const std::int64_t block_elements = weight_block(type.dtype).num_elements;
    const std::int64_t num_blocks = kRows * kWidth / block_elements;
    for (const std::int64_t block : {std::int64_t{0}, num_blocks / 2 + 1, num_blocks - 1}) {
      for (const std::size_t offset : type.float_offsets) {
        for (const bool nan : {true, false}) {
          Sample bad = make_sample(type);
          put(bad, type, block, offset, nan);
          const std::int64_t element = block * block_elements;
          const std::string place =
              "[" + std::to_string(element / kWidth) + ", " + std::to_string(element % kWidth) + "]";
          EXPECT_EQ(check_finite(bad.model, 2).message(),
                    "some.gguf: tensor 'blk.0.ffn_up.weight' of type " + name + " is " +
                        (nan ? "NaN" : "infinite") + (block_elements == 1 ? " at " : " in the block at ") +
                        place + "; finite weights are expected");
        }
      }
    }
  }
}

// What the check passes is what the reader makes finite, and the other way round.
TEST(WeightCheck, AgreesWithTheReader) {
  for (const TypeCase& type : type_cases()) {
    for (const std::size_t offset : type.float_offsets) {
      Sample sample = make_sample(type);
      std::vector<float> row(kWidth);
      const auto is_finite = [&] {
        read_row_f32(sample.model.weights.begin()->second, 7, row);
        return std::all_of(row.begin(), row.end(), [](float value) { return std::isfinite(value); });
      };
      EXPECT_TRUE(is_finite()) << weight_dtype_name(type.dtype);
      put(sample, type, 7 * kWidth / weight_block(type.dtype).num_elements, offset, true);
      EXPECT_FALSE(is_finite()) << weight_dtype_name(type.dtype);
      EXPECT_FALSE(check_finite(sample.model, 1).ok());
    }
  }
}

TEST(WeightCheck, TellsTheFirstWhateverTheThreads) {
  const TypeCase& type = type_cases().front();
  for (const int num_threads : {1, 2, 7}) {
    Sample sample = make_sample(type);
    for (std::int64_t block = 1'100'000; block < kRows * kWidth; block += 1000)
      put(sample, type, block, 0, true);
    EXPECT_NE(check_finite(sample.model, num_threads).message().find("[2148, 224]"), std::string::npos);
  }
}

TEST(WeightCheck, AVectorsPlaceIsOneNumber) {
  Sample sample = make_sample(type_cases().front());
  WeightView& view = sample.model.weights.begin()->second;
  view.shape = {kRows * kWidth};
  put(sample, type_cases().front(), 5, 0, false);
  EXPECT_NE(check_finite(sample.model, 1).message().find("is infinite at [5];"), std::string::npos);
}

// As the file counts them: of a tensor that is several of the engine's, the rows before it too.
TEST(WeightCheck, PartsOfATensorCountItsRows) {
  Sample sample = make_sample(type_cases().front());
  sample.model.weights.begin()->second.stored.first_row = 1000;
  put(sample, type_cases().front(), 2 * kWidth + 3, 0, true);
  EXPECT_NE(check_finite(sample.model, 1).message().find("is NaN at [1002, 3];"), std::string::npos);
}

TEST(WeightCheck, AWholeModel) {
  const Bytes bytes = testing::small_gguf().build();
  const testing::TemporaryDirectory directory;
  Result<ModelFile> model = load_model_file(directory.write("small.gguf", bytes));
  ASSERT_TRUE(model.ok());
  EXPECT_TRUE(check_finite(*model, 2).ok());
  testing::GgufBuilder builder = testing::small_gguf();
  builder.remove_tensor("blk.1.attn_q.weight");
  std::vector<float> values(64);
  values[21] = std::nanf("");
  builder.tensor("blk.1.attn_q.weight", {8, 8}, 0, testing::f32_bytes(values));
  const std::string path = directory.write("bad.gguf", builder.build());
  model = load_model_file(path);
  ASSERT_TRUE(model.ok());
  // As stored: the engine's row would be another.
  EXPECT_EQ(
      check_finite(*model, 2).message(),
      path + ": tensor 'blk.1.attn_q.weight' of type F32 is NaN at [2, 5]; finite weights are expected");
}

}  // namespace
}  // namespace kvcrush
