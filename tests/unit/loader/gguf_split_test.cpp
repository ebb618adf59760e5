#include "engine/loader/gguf_split.h"

#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <functional>

#include "engine/loader/model_file.h"
#include "tests/unit/loader/builders.h"

namespace kvcrush {
namespace {

using testing::Bytes;
using testing::f32_bytes;
using testing::GgufBuilder;
using testing::TemporaryDirectory;

constexpr int kNumParts = 3;
constexpr int kNumTensors = 20;  // of small_gguf()

std::string part_name(int number, int count = kNumParts) {
  return SplitName{"small", number, count}.of(number);
}

using Parts = std::array<GgufBuilder, kNumParts>;

// small_gguf() in three: the embedding and layer 0, layer 1, the last norm.
Parts split_small_gguf() {
  Parts parts = {testing::small_gguf(), testing::small_gguf(), testing::small_gguf()};
  const auto belongs = [](const std::string& name) {
    return name.starts_with("blk.1.") ? 1 : name.starts_with("output") ? 2 : 0;
  };
  for (int i = 0; i < kNumParts; ++i) {
    GgufBuilder& part = parts[static_cast<std::size_t>(i)];
    if (i > 0) part.remove_all_entries();
    part.keep_tensors([&](const std::string& name) { return belongs(name) == i; });
    part.u32("split.no", static_cast<std::uint32_t>(i));
    part.u32("split.count", kNumParts);
    part.u32("split.tensors.count", kNumTensors);
  }
  return parts;
}

void write_parts(const TemporaryDirectory& directory, const Parts& parts) {
  for (int i = 0; i < kNumParts; ++i)
    directory.write(part_name(i + 1), parts[static_cast<std::size_t>(i)].build());
}

void set_u32(GgufBuilder& builder, const std::string& key, std::uint32_t value) {
  builder.remove(key);
  builder.u32(key, value);
}

TEST(SplitName, TellsPartsFromOtherNames) {
  const auto name = parse_split_name("/models/a-b-00002-of-00013.gguf");
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->stem, "/models/a-b");
  EXPECT_EQ(name->number, 2);
  EXPECT_EQ(name->count, 13);
  EXPECT_EQ(name->of(1), "/models/a-b-00001-of-00013.gguf");
  for (const char* other : {"a.gguf", "a-00001-of-00002.safetensors", "a-0001-of-0002.gguf",
                            "a-00000-of-00002.gguf", "a-00003-of-00002.gguf", "a-00001-of-0000x.gguf",
                            "-of-00002.gguf", "a00001-of-00002.gguf", "a--0001-of-00002.gguf", ".gguf", ""}) {
    EXPECT_FALSE(parse_split_name(other).has_value()) << other;
  }
}

TEST(GgufSplit, PartsAreOneModel) {
  const TemporaryDirectory directory;
  write_parts(directory, split_small_gguf());
  const std::string whole_path = directory.write("whole.gguf", testing::small_gguf().build());
  const Result<ModelFile> parts = load_model_file(directory.file(part_name(1)));
  ASSERT_TRUE(parts.ok()) << parts.status().message();
  const Result<ModelFile> whole = load_model_file(whole_path);
  ASSERT_TRUE(whole.ok());
  EXPECT_EQ(parts->path, directory.file(part_name(1)));
  EXPECT_EQ(parts->config.name, "Small");
  EXPECT_EQ(parts->num_parameters, whole->num_parameters);
  EXPECT_EQ(parts->weight_bytes, whole->weight_bytes);
  EXPECT_EQ(parts->tokenizer.tokens, whole->tokenizer.tokens);
  ASSERT_EQ(parts->weights.size(), whole->weights.size());
  for (const auto& [name, view] : whole->weights) {
    std::vector<float> expected(static_cast<std::size_t>(view.num_elements()));
    read_f32(view, expected);
    std::vector<float> values(expected.size());
    read_f32(parts->weights.at(name), values);
    EXPECT_EQ(values, expected) << name;
  }
  EXPECT_EQ(parts->weights.at("layers.1.q_proj").stored.file, directory.file(part_name(2)));
  parts->release_pages();
}

// Part 1 may have metadata alone.
TEST(GgufSplit, APartMayHaveNoTensors) {
  Parts parts = split_small_gguf();
  const std::vector<std::string> moved = parts[0].tensor_names();
  GgufBuilder all = testing::small_gguf();
  parts[0].keep_tensors([](const std::string&) { return false; });
  parts[2].take_tensors(all, moved);
  const TemporaryDirectory directory;
  write_parts(directory, parts);
  const Result<ModelFile> model = load_model_file(directory.file(part_name(1)));
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ(model->weights.at("embed_tokens").stored.file, directory.file(part_name(3)));
}

// What is wrong, and that the message names the file where it is.
void expect_refused(const std::function<void(Parts&)>& change, int named_part, const std::string& expected) {
  Parts parts = split_small_gguf();
  change(parts);
  const TemporaryDirectory directory;
  write_parts(directory, parts);
  const Status status = load_model_file(directory.file(part_name(1))).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << expected;
  EXPECT_TRUE(status.message().starts_with(directory.file(part_name(named_part)) + ": ")) << status.message();
  EXPECT_NE(status.message().find(expected), std::string::npos) << status.message();
}

TEST(GgufSplit, RefusesForeignParts) {
  expect_refused([](Parts& parts) { set_u32(parts[1], "split.count", 4); }, 2,
                 "'split.count' is 4; the files' names demand 3");
  expect_refused([](Parts& parts) { set_u32(parts[1], "split.no", 2); }, 2,
                 "'split.no' is 2; the file's name demands 1");
  expect_refused([](Parts& parts) { set_u32(parts[2], "split.tensors.count", 99); }, 3,
                 "'split.tensors.count' is 99; the first part, ");
  expect_refused([](Parts& parts) { parts[1].remove("split.count"); }, 2, "'split.count' is missing");
  expect_refused([](Parts& parts) { parts[1].remove("split.no"); }, 2, "'split.no' is missing");
  expect_refused([](Parts& parts) { parts[0].remove("split.tensors.count"); }, 1,
                 "'split.tensors.count' is missing");
  expect_refused([](Parts& parts) { parts[1] = testing::small_gguf(); }, 2, "'split.count' is missing");
}

TEST(GgufSplit, RefusesTensorsThatAreTwiceOrNowhere) {
  expect_refused(
      [](Parts& parts) {
        parts[2].tensor("blk.1.attn_norm.weight", {8}, 0, f32_bytes(std::vector<float>(8)));
      },
      3, "tensor 'blk.1.attn_norm.weight' is in ");
  expect_refused([](Parts& parts) { parts[1].remove_tensor("blk.1.attn_norm.weight"); }, 1,
                 "its 3 parts have 19 tensors; metadata key 'split.tensors.count' is 20");
  expect_refused(
      [](Parts& parts) {
        parts[1].remove_tensor("blk.1.attn_norm.weight");
        parts[1].tensor("blk.1.surprise", {8}, 0, f32_bytes(std::vector<float>(8)));
      },
      2, "tensor 'blk.1.surprise' is not part of a llama model");
  expect_refused(
      [](Parts& parts) {
        parts[1].remove_tensor("blk.1.attn_norm.weight");
        parts[1].tensor("blk.1.attn_norm.weight", {7}, 0, f32_bytes(std::vector<float>(7)));
      },
      2, "tensor 'blk.1.attn_norm.weight' has shape [7]; the configuration demands [8]");
}

TEST(GgufSplit, RefusesMissingAndTruncatedParts) {
  const TemporaryDirectory directory;
  write_parts(directory, split_small_gguf());
  const auto message = [&](int number) {
    return load_model_file(directory.file(part_name(number))).status().message();
  };
  EXPECT_NE(message(2).find("is part 2 of 3 of a model; name the first, " + directory.file(part_name(1))),
            std::string::npos)
      << message(2);
  const std::string second = directory.file(part_name(2));
  const auto size = std::filesystem::file_size(second);
  std::filesystem::resize_file(second, size - 100);
  EXPECT_NE(message(1).find(second + ": at byte "), std::string::npos) << message(1);
  EXPECT_NE(message(1).find("bytes of tensor data"), std::string::npos) << message(1);
  std::filesystem::resize_file(second, 10);
  EXPECT_NE(message(1).find(second + ": at byte "), std::string::npos) << message(1);
  std::filesystem::remove(second);
  EXPECT_EQ(message(1), second + ": no such file; it is part 2 of 3 of the model that " +
                            directory.file(part_name(1)) + " begins");
}

// The others could not be found.
TEST(GgufSplit, RefusesAPartThatWasRenamed) {
  const TemporaryDirectory directory;
  const std::string path = directory.write("mine.gguf", split_small_gguf()[0].build());
  EXPECT_EQ(load_model_file(path).status().message(),
            path +
                ": is one of 3 parts of a model (metadata key 'split.count'); the first must be called "
                "NAME-00001-of-00003.gguf, and the others in the same way");
}

TEST(GgufSplit, OneOfOneIsAWholeModel) {
  GgufBuilder builder = testing::small_gguf();
  builder.u32("split.no", 0);
  builder.u32("split.count", 1);
  const TemporaryDirectory directory;
  EXPECT_TRUE(load_model_file(directory.write(part_name(1, 1), builder.build())).ok());
  EXPECT_TRUE(load_model_file(directory.write("renamed.gguf", builder.build())).ok());
}

}  // namespace
}  // namespace kvcrush
