#include "engine/loader/safetensors.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/unit/loader/builders.h"

namespace kvcrush {
namespace {

using testing::append;
using testing::append_text;
using testing::Bytes;
using testing::safetensors_bytes;
using testing::view;

void expect_error(const Bytes& bytes, const std::string& part) {
  const auto weights = parse_safetensors(view(bytes), "test.safetensors");
  ASSERT_FALSE(weights.ok()) << "expected: " << part;
  EXPECT_EQ(weights.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(weights.status().message().find(part), std::string::npos) << weights.status().message();
  EXPECT_EQ(weights.status().message().find("test.safetensors: "), 0u);
}

TEST(Safetensors, ReadsAllSupportedTypes) {
  Bytes half;
  append<std::uint16_t>(half, 0x3c00);
  Bytes bfloat;
  append<std::uint16_t>(bfloat, 0x3f80);
  append<std::uint16_t>(bfloat, 0xbf80);
  const Bytes bytes = safetensors_bytes({{"full", "F32", {1, 2}, testing::f32_bytes({1.5f, 2.5f})},
                                         {"half", "F16", {1}, half},
                                         {"bfloat", "BF16", {2}, bfloat}});
  const auto weights = parse_safetensors(view(bytes), "test.safetensors");
  ASSERT_TRUE(weights.ok()) << weights.status().message();
  ASSERT_EQ(weights->size(), 3u);
  for (const NamedWeight& weight : *weights) {
    std::vector<float> values(static_cast<std::size_t>(weight.view.num_elements()));
    read_f32(weight.view, values);
    if (weight.name == "full") {
      EXPECT_EQ(values, (std::vector<float>{1.5f, 2.5f}));
      EXPECT_EQ(weight.view.shape, (std::vector<std::int64_t>{1, 2}));
    } else if (weight.name == "half") {
      EXPECT_EQ(values, (std::vector<float>{1.0f}));
    } else {
      EXPECT_EQ(values, (std::vector<float>{1.0f, -1.0f}));
    }
  }
}

TEST(Safetensors, RefusesABadHeader) {
  expect_error({}, "expected 8 bytes of header length");
  Bytes huge;
  append<std::uint64_t>(huge, ~std::uint64_t{0});
  append_text(huge, "{}");
  expect_error(huge, "header length is 18446744073709551615");
  Bytes beyond;
  append<std::uint64_t>(beyond, 1000);
  append_text(beyond, "{}");
  expect_error(beyond, "expected 1000 bytes of header, the file has 2 left");
  expect_error(safetensors_bytes("{\"a\": ", {}), "the header is no JSON object");
  expect_error(safetensors_bytes("[1]", {}), "the header is no JSON object");
  expect_error(safetensors_bytes(std::string(100000, '['), {}), "the JSON is nested deeper than 64");
}

TEST(Safetensors, RefusesBadTensors) {
  const auto file = [](const std::string& header) { return safetensors_bytes(header, Bytes(16)); };
  expect_error(file(R"({"a": 1})"), "tensor 'a': a JSON object is expected");
  expect_error(file(R"({"a": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]}})"),
               "tensor 'a' has type 'I64'; supported: F32, F16, BF16");
  expect_error(file(R"({"a": {"dtype": "F32", "shape": "4", "data_offsets": [0, 16]}})"), "no valid 'shape'");
  expect_error(file(R"({"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}})"),
               "no valid 'shape'");
  expect_error(file(R"({"a": {"dtype": "F32", "shape": [4]}})"), "no valid 'data_offsets'");
  expect_error(file(R"({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0]}})"),
               "no valid 'data_offsets'");
  expect_error(file(R"({"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}})"),
               "data_offsets [16, 0]");
  expect_error(file(R"({"a": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}})"),
               "data_offsets [8, 24]; the file has 16 bytes of tensor data");
  expect_error(file(R"({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}})"),
               "does not fit its 16 bytes");
  expect_error(file(R"({"a": {"dtype": "F32", "shape": [9223372036854775807, 4], "data_offsets": [0, 16]}})"),
               "does not fit its 16 bytes");
  expect_error(file(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}})"),
               "tensors 'a' and 'b' overlap at data offset 4");
  expect_error(file(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                        "a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}})"),
               "tensor 'a' occurs twice");
}

TEST(Safetensors, RefusesEveryPrefix) {
  const Bytes bytes = safetensors_bytes(testing::small_hf_tensors());
  ASSERT_TRUE(parse_safetensors(view(bytes), "test.safetensors").ok());
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    const Bytes prefix(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length));
    ASSERT_FALSE(parse_safetensors(view(prefix), "test.safetensors").ok()) << length;
  }
}

TEST(Safetensors, SurvivesCorruptHeaders) {
  const Bytes original = safetensors_bytes(testing::small_hf_tensors());
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, original.data(), sizeof(header_bytes));
  std::mt19937 random(7);
  int refused = 0;
  for (int trial = 0; trial < 4000; ++trial) {
    Bytes bytes = original;
    bytes[random() % (8 + header_bytes)] = static_cast<std::byte>(random() & 0xff);
    const auto weights = parse_safetensors(view(bytes), "test.safetensors");
    if (!weights.ok()) {
      ++refused;
      continue;
    }
    for (const NamedWeight& weight : *weights) {
      std::vector<float> values(static_cast<std::size_t>(weight.view.num_elements()));
      read_f32(weight.view, values);
    }
  }
  EXPECT_GT(refused, 400);
}

class Shards : public ::testing::Test {
 protected:
  void write_shards() {
    directory.write("model-1.safetensors",
                    safetensors_bytes({{"a", "F32", {1}, testing::f32_bytes({1.0f})}}));
    directory.write("model-2.safetensors",
                    safetensors_bytes({{"b", "F32", {1}, testing::f32_bytes({2.0f})}}));
  }
  void write_index(const std::string& text) { directory.write("model.safetensors.index.json", text); }
  void expect_refused(const std::string& part) {
    const Result<SafetensorsModel> model = open_safetensors(directory.path());
    ASSERT_FALSE(model.ok()) << "expected: " << part;
    EXPECT_EQ(model.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(model.status().message().find(part), std::string::npos) << model.status().message();
  }

  testing::TemporaryDirectory directory;
};

TEST_F(Shards, AreReadThroughTheIndex) {
  write_shards();
  write_index(R"({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})");
  Result<SafetensorsModel> model = open_safetensors(directory.path());
  ASSERT_TRUE(model.ok()) << model.status().message();
  ASSERT_EQ(model->weights.size(), 2u);
  std::vector<float> value(1);
  read_f32(model->weights[1].view, value);
  EXPECT_EQ(value[0], 2.0f);
}

TEST_F(Shards, MustMatchTheIndex) {
  expect_refused("neither model.safetensors nor model.safetensors.index.json");
  write_shards();
  write_index(R"({"weight_map": {"a": "model-1.safetensors", "b": "model-3.safetensors"}})");
  expect_refused("model-3.safetensors: no such file");
  write_index(R"({"weight_map": {"a": "model-1.safetensors", "c": "model-2.safetensors"}})");
  expect_refused("tensor 'b' is not listed for this file");
  write_index(
      R"({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}})");
  expect_refused("tensor 'c' of the index is missing");
  write_index(R"({"weight_map": {"a": "../model-1.safetensors"}})");
  expect_refused("mapped to '../model-1.safetensors'");
  write_index(R"({"weight_map": []})");
  expect_refused("'weight_map' must be a non-empty object");
  write_index("{");
  expect_refused("is not valid JSON");
}

}  // namespace
}  // namespace kvcrush
