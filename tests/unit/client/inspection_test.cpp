#include "client/inspect/inspection.h"

#include <gtest/gtest.h>

#include <sstream>

#include "client/inspect/inspection_output.h"
#include "tests/unit/loader/builders.h"

namespace kvcrush::inspect {
namespace {

using nlohmann::json;
using testing::Bytes;
using testing::GgufBuilder;
using testing::TemporaryDirectory;

constexpr std::uint64_t kKvMemory = 64 << 20;

Question ask(const std::string& model) {
  Question question;
  question.model = model;
  question.kv_memory_bytes = kKvMemory;
  question.lengths = {64, 128, 129};
  question.kv_dtypes = {"f32", "int4"};
  question.budget_fraction = 0.5;
  return question;
}

// small_gguf() with heads that the engine can run: hidden 8, two query heads and one KV head of 16.
GgufBuilder runnable_gguf() {
  GgufBuilder builder = testing::small_gguf();
  builder.u32("llama.attention.key_length", 16);
  for (const char* layer : {"blk.0.", "blk.1."}) {
    const auto replace = [&](const std::string& name, std::vector<std::uint64_t> shape) {
      builder.remove_tensor(layer + name);
      builder.tensor(layer + name, std::move(shape), 0, Bytes(1024));
    };
    replace("attn_q.weight", {32, 8});
    replace("attn_output.weight", {8, 32});
    builder.remove_tensor(layer + std::string("attn_k.weight"));
    builder.tensor(layer + std::string("attn_k.weight"), {16, 8}, 0, Bytes(512));
    builder.remove_tensor(layer + std::string("attn_v.weight"));
    builder.tensor(layer + std::string("attn_v.weight"), {16, 8}, 0, Bytes(512));
  }
  return builder;
}

std::string printed(const Inspection& inspection, const Question& question) {
  std::ostringstream out;
  print_inspection(inspection, question, out);
  return out.str();
}

TEST(Inspection, AModelThatRuns) {
  const TemporaryDirectory directory;
  GgufBuilder builder = runnable_gguf();
  builder.text("tokenizer.chat_template", "{{ messages[0].content }}");
  const Question question = ask(directory.write("small.gguf", builder.build()));
  const Inspection inspection = inspect_model(question);
  EXPECT_TRUE(inspection.problems.empty()) << inspection.problems.front();
  EXPECT_TRUE(inspection.notes.empty());
  const json object = to_json(inspection, question);
  EXPECT_EQ(object["runnable"], true);
  EXPECT_EQ(object["format"], "GGUF");
  EXPECT_EQ(object["path"], question.model);
  const json& model = object["model"];
  EXPECT_EQ(model["architecture"], "llama");
  EXPECT_EQ(model["layers"], 2);
  EXPECT_EQ(model["kv_heads"], 1);
  EXPECT_EQ(model["head_dim"], 16);
  EXPECT_EQ(model["context_tokens"], 128);
  EXPECT_EQ(model["tied_embeddings"], true);
  EXPECT_EQ(model["rope"]["scaling"], "none");
  EXPECT_EQ(model["tokenizer"]["pre_tokenizer"], "smollm");
  EXPECT_EQ(model["stop_tokens"][0]["text"], "<|im_end|>");
  EXPECT_EQ(model["chat_template"], "yes");
  EXPECT_EQ(model["cpu_weight_bytes"], 4 * model["parameters"].get<std::int64_t>());
  EXPECT_EQ(model["gpu_weight_bytes"], 2 * model["parameters"].get<std::int64_t>());
  ASSERT_EQ(object["tensors"].size(), 1u);
  EXPECT_EQ(object["tensors"][0]["number"], 20);
  EXPECT_EQ(object["tensors"][0]["bytes"], model["file_weight_bytes"]);

  // A block is 16 float32 tokens of K and V of a head of 16: 2 KiB.
  const json& f32 = object["kv_cache"]["dtypes"][0];
  EXPECT_EQ(f32["dtype"], "f32");
  EXPECT_EQ(f32["bytes_per_token"], 2 * 16 * 4 * 2);
  EXPECT_EQ(f32["block_bytes"], 2048);
  EXPECT_EQ(f32["blocks"], kKvMemory / 2048);
  EXPECT_EQ(f32["sequences"][0]["full"], kKvMemory / 2048 / (2 * 4));
  EXPECT_EQ(f32["sequences"][1]["full"], kKvMemory / 2048 / (2 * 8));
  EXPECT_GE(f32["sequences"][1]["pruned"], f32["sequences"][1]["full"]);
  EXPECT_TRUE(f32["sequences"][2]["full"].is_null());  // beyond the context
  EXPECT_GT(object["kv_cache"]["dtypes"][1]["sequences"][1]["full"], f32["sequences"][1]["full"]);

  const std::string text = printed(inspection, question);
  EXPECT_NE(text.find("chat template"), std::string::npos);
  EXPECT_NE(text.find("full cache / pruned to 50.0% of the prompt; -: longer than the context"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("The server can run this model."), std::string::npos);
}

// What the server would start without is no problem.
TEST(Inspection, ATemplateThatIsNotUnderstood) {
  const TemporaryDirectory directory;
  GgufBuilder builder = runnable_gguf();
  builder.text("tokenizer.chat_template", "{{ messages | invented_filter }}");
  const Question question = ask(directory.write("small.gguf", builder.build()));
  const Inspection inspection = inspect_model(question);
  EXPECT_TRUE(inspection.problems.empty());
  ASSERT_EQ(inspection.notes.size(), 1u);
  EXPECT_NE(inspection.notes[0].find("invented_filter"), std::string::npos) << inspection.notes[0];
  EXPECT_EQ(to_json(inspection, question)["model"]["chat_template"], "not understood");
}

TEST(Inspection, AllProblemsAtOnce) {
  const TemporaryDirectory directory;
  GgufBuilder builder = testing::small_gguf();  // heads of 4
  builder.remove("tokenizer.ggml.pre");
  builder.text("tokenizer.ggml.pre", "invented");
  builder.tensor("odd", {256}, 16, Bytes(66));
  const Question question = ask(directory.write("bad.gguf", builder.build()));
  const Inspection inspection = inspect_model(question);
  const std::string text = printed(inspection, question);
  EXPECT_EQ(inspection.problems.size(), 3u) << text;
  EXPECT_NE(text.find("problem: " + question.model + ": tensor 'odd' has type IQ2_XXS"), std::string::npos)
      << text;
  EXPECT_NE(text.find("invented"), std::string::npos) << text;
  EXPECT_NE(text.find("head_dim is 4"), std::string::npos) << text;
  EXPECT_NE(text.find("not supported"), std::string::npos) << text;
  EXPECT_NE(text.find("The server cannot run this model."), std::string::npos);
  EXPECT_EQ(to_json(inspection, question)["runnable"], false);
}

TEST(Inspection, AnUnknownArchitectureStillTellsItsSizes) {
  const TemporaryDirectory directory;
  GgufBuilder builder = testing::small_gguf();
  builder.remove("general.architecture");
  builder.text("general.architecture", "mamba9");
  builder.u32("mamba9.block_count", 48);
  const Question question = ask(directory.write("mamba.gguf", builder.build()));
  const Inspection inspection = inspect_model(question);
  const json object = to_json(inspection, question);
  EXPECT_EQ(object["runnable"], false);
  EXPECT_EQ(object["model"]["architecture"], "mamba9");
  EXPECT_EQ(object["model"]["layers"], 48);
  EXPECT_FALSE(object["model"].contains("kv_heads"));
  EXPECT_TRUE(object["kv_cache"]["dtypes"].empty());
  EXPECT_EQ(object["tensors"][0]["number"], 20);
}

TEST(Inspection, APoolThatIsTooSmall) {
  const TemporaryDirectory directory;
  Question question = ask(directory.write("small.gguf", runnable_gguf().build()));
  question.kv_memory_bytes = 100;
  const Inspection inspection = inspect_model(question);
  ASSERT_EQ(inspection.problems.size(), 1u);
  EXPECT_NE(inspection.problems[0].find("kv_memory_bytes is 100; allowed: at least 4096"), std::string::npos)
      << inspection.problems[0];
}

TEST(Inspection, NoModel) {
  const Question question = ask("/nowhere");
  const Inspection inspection = inspect_model(question);
  EXPECT_EQ(printed(inspection, question),
            "problem: /nowhere: no such file or folder\nThe server cannot run this model.\n");
}

TEST(Inspection, RefusesQuestionsWithoutAnAnswer) {
  Question question = ask("any");
  EXPECT_EQ(refusal(question), "");
  question.budget_fraction = 1.5;
  EXPECT_NE(refusal(question).find("budget_fraction is 1.5"), std::string::npos) << refusal(question);
  question = ask("any");
  question.kv_dtypes = {"f64"};
  EXPECT_NE(refusal(question).find("f64"), std::string::npos);
  question = ask("any");
  question.lengths = {0};
  EXPECT_EQ(refusal(question), "tokens is 0; allowed: at least 1");
}

}  // namespace
}  // namespace kvcrush::inspect
