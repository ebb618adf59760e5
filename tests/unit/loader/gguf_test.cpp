#include "engine/loader/gguf.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "engine/loader/gguf_model.h"
#include "tests/unit/loader/builders.h"

namespace kvcrush {
namespace {

using testing::append;
using testing::append_text;
using testing::Bytes;
using testing::GgufBuilder;
using testing::small_gguf;
using testing::view;

std::string parse_error(const Bytes& bytes) {
  const Result<GgufFile> file = parse_gguf(view(bytes), "test.gguf");
  EXPECT_EQ(file.status().code(), StatusCode::kInvalidArgument);
  return file.status().message();
}

void expect_error(const Bytes& bytes, const std::string& part) {
  const std::string message = parse_error(bytes);
  EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_EQ(message.find("test.gguf: at byte "), 0u) << message;
}

TEST(Gguf, ReadsEveryTypeOfValue) {
  GgufBuilder builder;
  const auto scalar = [&](const std::string& key, std::uint32_t type, auto value) {
    Bytes payload;
    append(payload, type);
    append(payload, value);
    builder.raw(key, payload);
  };
  scalar("u8", 0, std::uint8_t{200});
  scalar("i8", 1, std::int8_t{-100});
  scalar("u16", 2, std::uint16_t{60000});
  scalar("i16", 3, std::int16_t{-30000});
  scalar("u32", 4, std::uint32_t{4000000000});
  scalar("i32", 5, std::int32_t{-2000000000});
  scalar("f32", 6, 1.5f);
  scalar("u64", 10, std::uint64_t{1} << 63);
  scalar("i64", 11, std::int64_t{-1} * (std::int64_t{1} << 62));
  scalar("f64", 12, 2.5);
  builder.flag("yes", true);
  builder.text("text", "héllo");
  builder.texts("texts", {"", "b"});
  builder.i32s("i32s", {-7, 8});
  const Bytes bytes = builder.build();
  Result<GgufFile> file = parse_gguf(view(bytes), "test.gguf");
  ASSERT_TRUE(file.ok()) << file.status().message();
  auto& metadata = file->metadata;
  EXPECT_EQ(std::get<std::uint64_t>(metadata.at("u8")), 200u);
  EXPECT_EQ(std::get<std::int64_t>(metadata.at("i8")), -100);
  EXPECT_EQ(std::get<std::uint64_t>(metadata.at("u16")), 60000u);
  EXPECT_EQ(std::get<std::int64_t>(metadata.at("i16")), -30000);
  EXPECT_EQ(std::get<std::uint64_t>(metadata.at("u32")), 4000000000u);
  EXPECT_EQ(std::get<std::int64_t>(metadata.at("i32")), -2000000000);
  EXPECT_EQ(std::get<double>(metadata.at("f32")), 1.5);
  EXPECT_EQ(std::get<std::uint64_t>(metadata.at("u64")), std::uint64_t{1} << 63);
  EXPECT_EQ(std::get<std::int64_t>(metadata.at("i64")), -(std::int64_t{1} << 62));
  EXPECT_EQ(std::get<double>(metadata.at("f64")), 2.5);
  EXPECT_TRUE(std::get<bool>(metadata.at("yes")));
  EXPECT_EQ(std::get<std::string_view>(metadata.at("text")), "héllo");
  EXPECT_EQ(std::get<GgufArray>(metadata.at("texts")).strings, (std::vector<std::string_view>{"", "b"}));
  const auto& integers = std::get<GgufArray>(metadata.at("i32s"));
  ASSERT_TRUE(integers.is_integer());
  EXPECT_EQ(integers.integer_at(0), -7);
  EXPECT_EQ(integers.integer_at(1), 8);
}

TEST(Gguf, ReadsVersions2And3AndNoOther) {
  for (const std::uint32_t version : {2u, 3u}) {
    GgufBuilder builder = small_gguf();
    builder.version = version;
    const Bytes bytes = builder.build();
    EXPECT_TRUE(parse_gguf(view(bytes), "test.gguf").ok());
  }
  for (const std::uint32_t version : {0u, 1u, 4u}) {
    GgufBuilder builder = small_gguf();
    builder.version = version;
    expect_error(builder.build(), "version is " + std::to_string(version) + "; supported: 2, 3");
  }
  GgufBuilder swapped = small_gguf();
  swapped.version = 3u << 24;
  expect_error(swapped.build(), "big-endian");
}

TEST(Gguf, ShapesAreRowMajorAndBytesAligned) {
  GgufBuilder builder;
  builder.alignment = 64;
  builder.u32("general.alignment", 64);
  builder.tensor("first", {3}, 0, testing::f32_bytes({1, 2, 3}));
  builder.tensor("second", {2, 3}, 0, testing::f32_bytes({1, 2, 3, 4, 5, 6}));
  const Bytes bytes = builder.build();
  Result<GgufFile> file = parse_gguf(view(bytes), "test.gguf");
  ASSERT_TRUE(file.ok()) << file.status().message();
  const WeightView& second = file->tensors.at(1).view;
  EXPECT_EQ(second.shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ((second.bytes.data() - bytes.data()) % 64, 0);
  std::vector<float> values(6);
  read_f32(second, values);
  EXPECT_EQ(values, (std::vector<float>{1, 2, 3, 4, 5, 6}));
}

TEST(Gguf, RefusesWhatIsNotGguf) {
  EXPECT_NE(parse_error({}).find("at byte 0: expected 4 bytes of the magic 'GGUF'"), std::string::npos);
  Bytes text;
  append_text(text, "PK-something-else-altogether");
  expect_error(text, "not a GGUF file");
}

TEST(Gguf, RefusesCountsThatCannotFit) {
  Bytes bytes;
  append_text(bytes, "GGUF");
  append<std::uint32_t>(bytes, 3);
  append<std::uint64_t>(bytes, ~std::uint64_t{0});
  append<std::uint64_t>(bytes, 0);
  expect_error(bytes, "number of tensors is 18446744073709551615");

  for (const std::uint32_t element_type : {0u, 4u, 8u, 9u, 12u}) {
    GgufBuilder builder;
    Bytes array;
    append<std::uint32_t>(array, 9);
    append(array, element_type);
    append<std::uint64_t>(array, std::uint64_t{1} << 61);
    builder.raw("huge", array);
    expect_error(builder.build(), "huge is 2305843009213693952");
  }
}

TEST(Gguf, RefusesBrokenEntries) {
  GgufBuilder twice = small_gguf();
  twice.u32("llama.block_count", 2);
  expect_error(twice.build(), "'llama.block_count' occurs twice");

  GgufBuilder unknown;
  Bytes payload;
  append<std::uint32_t>(payload, 13);
  append<std::uint64_t>(payload, 0);
  unknown.raw("key", payload);
  expect_error(unknown.build(), "'key' has type 13; known: 0 to 12");

  GgufBuilder boolean;
  Bytes two;
  append<std::uint32_t>(two, 7);
  append<std::uint8_t>(two, 2);
  boolean.raw("key", two);
  expect_error(boolean.build(), "boolean 'key' is 2");

  GgufBuilder empty_key;
  empty_key.u32("", 1);
  expect_error(empty_key.build(), "key of 0 bytes");
}

Bytes nested_array(int depth) {
  Bytes payload;
  append<std::uint32_t>(payload, 9);
  for (int i = 1; i < depth; ++i) {
    append<std::uint32_t>(payload, 9);
    append<std::uint64_t>(payload, 1);
  }
  append<std::uint32_t>(payload, 0);
  append<std::uint64_t>(payload, 1);
  append<std::uint8_t>(payload, 5);
  return payload;
}

TEST(Gguf, BoundsTheNestingOfArrays) {
  GgufBuilder shallow;
  shallow.raw("key", nested_array(4));
  EXPECT_TRUE(parse_gguf(view(shallow.build()), "test.gguf").ok());
  for (const int depth : {5, 100000}) {
    GgufBuilder deep;
    deep.raw("key", nested_array(depth));
    expect_error(deep.build(), "nested deeper than 4");
  }
}

TEST(Gguf, RefusesBadAlignment) {
  for (const std::uint32_t alignment : {0u, 3u, 48u, 1u << 31}) {
    GgufBuilder builder = small_gguf();
    builder.u32("general.alignment", alignment);
    expect_error(builder.build(), "'general.alignment' must be a power of two");
  }
  GgufBuilder text = small_gguf();
  text.text("general.alignment", "32");
  expect_error(text.build(), "'general.alignment' must be a power of two");
}

TEST(Gguf, RefusesBrokenTensors) {
  const auto with = [](const std::function<void(GgufBuilder&)>& change) {
    GgufBuilder builder = small_gguf();
    change(builder);
    return builder.build();
  };
  expect_error(with([](GgufBuilder& b) { b.tensor("odd", {0}, 16, {}); }), "impossible shape [0]");
  expect_error(with([](GgufBuilder& b) { b.tensor("token_embd.weight", {1}, 0, Bytes(4)); }),
               "tensor 'token_embd.weight' occurs twice");
  expect_error(with([](GgufBuilder& b) { b.tensor("odd", {}, 0, Bytes(4)); }),
               "tensor 'odd' has 0 dimensions");
  expect_error(with([](GgufBuilder& b) {
                 b.tensor("odd", {1, 1, 1, 1, 1}, 0, Bytes(4));
               }),
               "has 5 dimensions");
  expect_error(with([](GgufBuilder& b) { b.tensor("odd", {33}, 8, Bytes(68)); }), "impossible shape [33]");
  expect_error(with([](GgufBuilder& b) { b.tensor("odd", {0}, 0, {}); }), "impossible shape [0]");
  expect_error(with([](GgufBuilder& b) {
                 b.tensor("odd", {1ull << 33, 1ull << 33}, 0, {});
               }),
               "impossible shape");
  expect_error(with([](GgufBuilder& b) { b.tensor("odd", {1ull << 40}, 0, {}); }), "tensor 'odd' needs");
  expect_error(with([](GgufBuilder& b) { b.move_tensor("output_norm.weight", 1 << 20); }),
               "tensor 'output_norm.weight' needs 32 bytes at data offset 1048576");
  expect_error(with([](GgufBuilder& b) { b.move_tensor("output_norm.weight", 8); }),
               "not a multiple of the alignment");
  expect_error(with([](GgufBuilder& b) { b.move_tensor("output_norm.weight", 32); }),
               "overlap at data offset 32");
}

// They are the model's reader's to refuse, and who only looks wants to know them all.
TEST(Gguf, KeepsTensorsOfUnsupportedTypes) {
  GgufBuilder builder = small_gguf();
  builder.tensor("odd", {2, 256}, 16, Bytes(132));
  builder.tensor("newer", {256}, 77, Bytes(210));
  const Bytes bytes = builder.build();
  const Result<GgufFile> file = parse_gguf(view(bytes), "test.gguf");
  ASSERT_TRUE(file.ok()) << file.status().message();
  ASSERT_EQ(file->tensors.size(), 22u);
  const GgufTensor& odd = file->tensors[20];
  EXPECT_EQ(odd.unsupported_type, "IQ2_XXS");
  EXPECT_EQ(odd.view.shape, (std::vector<std::int64_t>{2, 256}));
  EXPECT_TRUE(odd.view.bytes.empty());
  EXPECT_EQ(odd.view.stored.file, "test.gguf");
  EXPECT_EQ(odd.view.stored.name, "odd");
  EXPECT_EQ(file->tensors[21].unsupported_type, "number 77");
  EXPECT_EQ(file->tensors[0].unsupported_type, "");
}

// Every prefix of a complete model is refused, and none makes the reader touch a byte beyond it: the copy
// ends where the prefix ends, so that a sanitizer sees it.
TEST(Gguf, RefusesEveryPrefix) {
  const Bytes bytes = small_gguf().build();
  ASSERT_TRUE(read_gguf_model(view(bytes), "test.gguf").ok());
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    const Bytes prefix(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length));
    const Result<GgufFile> file = parse_gguf(view(prefix), "test.gguf");
    ASSERT_EQ(file.status().code(), StatusCode::kInvalidArgument) << length;
    ASSERT_FALSE(read_gguf_model(view(prefix), "test.gguf").ok()) << length;
  }
}

TEST(Gguf, SurvivesCorruptBytes) {
  const Bytes original = small_gguf(false).build();
  std::mt19937 random(20240607);
  int refused = 0;
  constexpr int kTrials = 20000;
  for (int trial = 0; trial < kTrials; ++trial) {
    Bytes bytes = original;
    const int num_changes = trial % 3 + 1;
    for (int i = 0; i < num_changes; ++i)
      bytes[random() % bytes.size()] = static_cast<std::byte>(random() & 0xff);
    Result<ModelFile> model = read_gguf_model(view(bytes), "test.gguf");
    if (!model.ok()) {
      ++refused;
      continue;
    }
    for (const auto& [name, weight] : model->weights) {  // what was accepted can be read
      std::vector<float> values(static_cast<std::size_t>(weight.num_elements()));
      read_f32(weight, values);
    }
  }
  EXPECT_GT(refused, kTrials / 10);
}

}  // namespace
}  // namespace kvcrush
