// Model files made to do harm: small ones that ask for much, deep ones, ones whose names are orders to a
// terminal, and things that are no files. Damage of other kinds: tests/fuzz.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>

#include "engine/loader/gguf.h"
#include "engine/loader/gguf_model.h"
#include "engine/loader/json_fields.h"
#include "engine/loader/model_file.h"
#include "engine/loader/safetensors.h"
#include "engine/loader/tokenizer_json.h"
#include "tests/unit/loader/builders.h"

namespace kvcrush {
namespace {

using nlohmann::json;
using testing::append;
using testing::Bytes;
using testing::GgufBuilder;
using testing::TemporaryDirectory;

template <typename T>
void expect_refused(const Result<T>& result, const std::string& part) {
  ASSERT_FALSE(result.ok()) << "expected: " << part;
  EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(result.status().message().find(part), std::string::npos) << result.status().message();
  EXPECT_LT(result.status().message().size(), 1000u);
}

Bytes gguf_header(std::uint64_t num_tensors, std::uint64_t num_entries) {
  Bytes bytes;
  testing::append_text(bytes, "GGUF");
  append<std::uint32_t>(bytes, 3);
  append(bytes, num_tensors);
  append(bytes, num_entries);
  return bytes;
}

// A hole in a file takes no disk, so a file's size says nothing about what its counts may cost.
TEST(HostileFile, CountsOfASparseFile) {
  const TemporaryDirectory directory;
  const auto load = [&](const Bytes& bytes) {
    const std::string path = directory.write("sparse.gguf", bytes);
    std::filesystem::resize_file(path, std::uintmax_t{1} << 36);
    return load_model_file(path);
  };
  expect_refused(load(gguf_header(1u << 30, 0)), "number of tensors is 1073741824; allowed: up to 65536");
  expect_refused(load(gguf_header(0, 1u << 30)), "number of metadata entries is 1073741824; allowed");
  for (const std::uint32_t type : {8u, 9u}) {  // strings, arrays
    Bytes array = gguf_header(0, 1);
    append<std::uint64_t>(array, 1);
    testing::append_text(array, "k");
    append<std::uint32_t>(array, 9);
    append<std::uint32_t>(array, type);
    append<std::uint64_t>(array, 1u << 30);
    expect_refused(load(array), "array 'k' has 1073741824 items; allowed in a file: up to 16777216");
  }
}

TEST(HostileFile, ArraysShareOneBudget) {
  // 2^24 arrays without items in the first array, which is a hole in the file; one string in the second.
  const auto array = [](const char* key, std::uint32_t type, std::uint64_t count) {
    Bytes bytes;
    append<std::uint64_t>(bytes, 1);
    testing::append_text(bytes, key);
    append<std::uint32_t>(bytes, 9);
    append(bytes, type);
    append(bytes, count);
    return bytes;
  };
  Bytes begin = gguf_header(0, 2);
  const Bytes first = array("a", 9, 1u << 24);
  begin.insert(begin.end(), first.begin(), first.end());
  const TemporaryDirectory directory;
  const std::string path = directory.write("many.gguf", begin);
  const std::uintmax_t end = begin.size() + (std::uintmax_t{12} << 24);
  std::filesystem::resize_file(path, end);
  const Bytes second = array("b", 8, 1);
  std::ofstream(path, std::ios::binary | std::ios::app)
      .write(reinterpret_cast<const char*>(second.data()), static_cast<std::streamsize>(second.size()));
  std::filesystem::resize_file(path, end + 1000);
  expect_refused(load_model_file(path), "array 'b' has 1 items; allowed in a file: up to 16777216");
}

TEST(HostileFile, NamesAreShownReadable) {
  const std::string evil = "\x1B]0;owned\x07" + std::string(60'000, 'x');
  GgufBuilder key;
  key.raw(evil, Bytes(4, std::byte{0xFF}));
  expect_refused(parse_gguf(testing::view(key.build()), "evil.gguf"), "'\\x1b]0;owned\\x07xxx");
  GgufBuilder tensor;
  tensor.tensor(evil, {0}, 77, {});
  expect_refused(parse_gguf(testing::view(tensor.build()), "evil.gguf"), "'\\x1b]0;owned\\x07xxx");
  GgufBuilder type = testing::small_gguf();
  type.tensor(evil, {1}, 77, Bytes(4));
  expect_refused(read_gguf_model(testing::view(type.build()), "evil.gguf"), "'\\x1b]0;owned\\x07xxx");
  GgufBuilder cut;
  cut.raw(evil, Bytes(4));
  Bytes bytes = cut.build();
  bytes.resize(24 + 8 + evil.size() + 4);  // ends before the value
  expect_refused(parse_gguf(testing::view(bytes), "evil.gguf"), "bytes of \\x1b]0;owned\\x07xxx");

  const json header = {{evil, {{"dtype", "F32"}, {"shape", {1}}, {"data_offsets", {0, 4}}}}};
  expect_refused(
      parse_safetensors(testing::view(testing::safetensors_bytes(header.dump(), {})), "evil.safetensors"),
      "'\\x1b]0;owned\\x07xxx");
  json tokenizer = testing::small_tokenizer();
  tokenizer["normalizer"] = {{"type", evil}};
  expect_refused(parse_tokenizer_json(tokenizer, 6, "tokenizer.json"), "'\\x1b]0;owned\\x07xxx");
}

TEST(HostileFile, ShardsAreNamedInPrint) {
  const TemporaryDirectory directory;
  for (const std::string name :
       {"a\\u001b[31m.safetensors", "a\\u0000.safetensors", "a b.safetensors", "\\u00e4.safetensors"}) {
    directory.write("model.safetensors.index.json", R"({"weight_map": {"a": ")" + name + "\"}}");
    expect_refused(open_safetensors(directory.path()), "the name of a .safetensors file in this folder");
  }
}

// Values nested 100,000 deep: whatever copies or prints one would run out of stack.
TEST(HostileFile, DeepJson) {
  const TemporaryDirectory directory;
  directory.write_small_model();
  ASSERT_TRUE(load_model_file(directory.path()).ok());
  const auto deep = [](const json& object, const std::string& key, const std::string& open,
                       const std::string& close) {
    std::string nest;
    for (int i = 0; i < 100'000; ++i) nest += open;
    nest += "1";
    for (int i = 0; i < 100'000; ++i) nest += close;
    json marked = object;
    marked[key] = "NEST";
    std::string text = marked.dump();
    return text.replace(text.find("\"NEST\""), 6, nest);
  };
  for (const auto& [open, close] : {std::pair("[", "]"), std::pair("{\"a\":", "}")}) {
    for (const char* key : {"eos_token_id", "hidden_size", "rope_scaling", "architectures"}) {
      directory.write("config.json", deep(testing::small_config(), key, open, close));
      expect_refused(load_model_file(directory.path()), "config.json: the JSON is nested deeper than 64");
    }
    directory.write("config.json", testing::small_config().dump());
    for (const char* key : {"pre_tokenizer", "post_processor", "added_tokens"}) {
      directory.write("tokenizer.json", deep(testing::small_tokenizer(), key, open, close));
      expect_refused(load_model_file(directory.path()), "tokenizer.json: the JSON is nested deeper than 64");
    }
    directory.write("tokenizer.json", testing::small_tokenizer().dump());
    directory.write("model.safetensors",
                    testing::safetensors_bytes(deep(json::object(), "a", open, close), {}));
    expect_refused(load_model_file(directory.path()), "model.safetensors: the JSON is nested deeper than 64");
  }
}

TEST(HostileFile, BracketsInStringsAreNoNesting) {
  const std::string text = R"({"a": "\"[[[\\", "b": [")" + std::string(1000, '{') + R"("]})";
  EXPECT_TRUE(parse_json_object(text, "test").ok());
  EXPECT_TRUE(parse_json_object("{\"a\":" + std::string(63, '[') + std::string(63, ']') + "}", "test").ok());
  EXPECT_FALSE(parse_json_object("{\"a\":" + std::string(64, '[') + std::string(64, ']') + "}", "test").ok());
}

TEST(HostileFile, LongJson) {
  const TemporaryDirectory directory;
  const std::string path = directory.write("config.json", std::string("{}"));
  std::filesystem::resize_file(path, kMaxJsonBytes + 1);
  expect_refused(load_model_file(directory.path()), "the JSON has 100000001 bytes; allowed: up to 100000000");
}

TEST(HostileFile, AFewTokensAskForFewIds) {
  json tokenizer = testing::small_tokenizer();
  const auto with_id = [&](int id) {
    tokenizer["added_tokens"] = json::array({{{"id", id}, {"content", "<far>"}}});
    return parse_tokenizer_json(json::parse(tokenizer.dump()), 1 << 22, "tokenizer.json");
  };
  EXPECT_TRUE(with_id(65'000).ok());
  expect_refused(with_id(4'000'000), "token '<far>' has id 4000000; allowed: 0 to 65539");
}

// Every one of them would be looked for after every token.
TEST(HostileFile, ManyTokensThatEndATurn) {
  const std::vector<std::string> tokens(100, "<|im_end|>");
  GgufBuilder builder = testing::small_gguf();
  builder.remove("tokenizer.ggml.tokens");
  builder.remove("tokenizer.ggml.token_type");
  builder.remove("tokenizer.ggml.merges");
  builder.texts("tokenizer.ggml.tokens", tokens);
  builder.i32s("tokenizer.ggml.token_type", std::vector<std::int32_t>(100, 3));
  builder.texts("tokenizer.ggml.merges", {});
  const TemporaryDirectory directory;
  expect_refused(load_model_file(directory.write("many.gguf", builder.build())),
                 "more than 64 tokens end a turn");
}

TEST(HostileFile, WhatIsNoFile) {
  const TemporaryDirectory directory;
  const auto start = std::chrono::steady_clock::now();
  // Opened as a file is, a pipe without a writer would be waited for.
  ASSERT_EQ(::mkfifo(directory.file("pipe.gguf").c_str(), 0600), 0);
  expect_refused(load_model_file(directory.file("pipe.gguf")), "is not a regular file");
  std::filesystem::remove(directory.file("pipe.gguf"));
  ASSERT_EQ(::mkfifo(directory.file("config.json").c_str(), 0600), 0);
  expect_refused(load_model_file(directory.path()), "config.json: is not a regular file");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));

  std::filesystem::create_symlink("loop.gguf", directory.file("loop.gguf"));
  expect_refused(load_model_file(directory.file("loop.gguf")),
                 "cannot be opened: Too many levels of symbolic links");
}

// Downloads keep files elsewhere and link to them.
TEST(HostileFile, LinksOutOfTheFolderAreFollowed) {
  const TemporaryDirectory store;
  store.write_small_model();
  const TemporaryDirectory folder;
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
    std::filesystem::create_symlink(store.file(name), folder.file(name));
  }
  EXPECT_TRUE(load_model_file(folder.path()).ok());
}

}  // namespace
}  // namespace kvcrush
