#include "client/cli/request_options.h"

#include <gtest/gtest.h>

#include <fstream>

#include "client/cli/prompt_source.h"

namespace kvcrush::cli {
namespace {

class RequestOptionsTest : public ::testing::Test {
 protected:
  RequestOptionsTest() {
    add_prompt_options(app_, prompt_);
    add_sampling_options(app_, request_);
  }

  void parse(std::vector<std::string> words) {
    std::reverse(words.begin(), words.end());  // CLI11 takes the words last first
    app_.parse(words);
  }

  static std::string written(const std::string& name, const std::string& text) {
    const std::string path = ::testing::TempDir() + "request-options-" + name;
    std::ofstream(path) << text;
    return path;
  }

  CLI::App app_;
  v1::GenerateRequest request_;
  PromptSource prompt_;
};

TEST_F(RequestOptionsTest, SetsNothingThatWasNotGiven) {
  parse({"hello"});
  EXPECT_EQ(request_.sampling().SerializeAsString(), "");
}

TEST_F(RequestOptionsTest, ChatSettingsImplyAChat) {
  const std::string tools = written("tools.json", R"([{"b": 1, "a": "\u00e4"}, {}])");
  parse({"--tools", tools, "--template-kwargs", R"({"x": 1})", "--no-generation-prompt", "hi"});
  ASSERT_TRUE(fill_prompt(prompt_, request_).ok());
  const v1::ChatMessages& chat = request_.chat();
  EXPECT_EQ(chat.messages(0).content(), "hi");
  ASSERT_EQ(chat.tools_size(), 2);
  EXPECT_EQ(chat.tools(0), "{\"b\":1,\"a\":\"\u00e4\"}");
  EXPECT_EQ(chat.template_kwargs(), R"({"x": 1})");
  EXPECT_FALSE(chat.add_generation_prompt());
}

TEST_F(RequestOptionsTest, MessagesOfAFile) {
  const std::string messages = written("messages.json", R"([
    {"role": "user", "content": [{"type": "text", "text": "a"}], "mood": [1]},
    {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
      {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": 2.0}}},
      {"name": "g", "arguments": "{\"c\": 3}"}]},
    {"role": "tool", "content": "5", "tool_call_id": "1", "name": "f"}])");
  parse({"--messages", messages});
  ASSERT_TRUE(fill_prompt(prompt_, request_).ok());
  const v1::ChatMessages& chat = request_.chat();
  ASSERT_EQ(chat.messages_size(), 3);
  EXPECT_EQ(chat.messages(0).content_parts(0).text(), "a");
  EXPECT_EQ(chat.messages(0).extra_fields(), R"({"mood":[1]})");
  EXPECT_EQ(chat.messages(1).reasoning_content(), "hm");
  EXPECT_EQ(chat.messages(1).tool_calls(0).id(), "1");
  EXPECT_EQ(chat.messages(1).tool_calls(0).arguments(), R"({"b":1,"a":2.0})");
  EXPECT_EQ(chat.messages(1).tool_calls(1).name(), "g");
  EXPECT_EQ(chat.messages(1).tool_calls(1).arguments(), R"({"c": 3})");
  EXPECT_EQ(chat.messages(2).content(), "5");
  EXPECT_EQ(chat.messages(2).tool_call_id(), "1");
  EXPECT_EQ(chat.messages(2).name(), "f");
}

TEST_F(RequestOptionsTest, BadChatFilesAreNamed) {
  const auto refusal = [this](const std::string& option, const std::string& text) {
    prompt_ = {};
    request_.Clear();
    parse({option, written("bad.json", text), option == "--messages" ? "--chat" : "hi"});
    const auto status = fill_prompt(prompt_, request_);
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message.find("bad.json: "), std::string::npos);
    return status.message.substr(status.message.find("bad.json: ") + 10);
  };
  EXPECT_EQ(refusal("--tools", "{}"), "is not a JSON list");
  EXPECT_NE(refusal("--tools", "[1,"), "");
  EXPECT_EQ(refusal("--messages", "[5]"), "[0] is not an object");
  EXPECT_EQ(refusal("--messages", R"([{"role": 5}])"), "[0].role is not a string");
  EXPECT_EQ(refusal("--messages", R"([{"role": "u", "content": [{"type": "image"}]}])"),
            "[0].content[0] is no part of type \"text\"");
  EXPECT_EQ(refusal("--messages", R"([{"role": "u", "tool_calls": [{"function": 1}]}])"),
            "[0].tool_calls[0].function is not an object");
  prompt_ = {};
  parse({"--messages", written("good.json", "[]"), "and a prompt"});
  EXPECT_NE(fill_prompt(prompt_, request_).message.find("not both"), std::string::npos);
}

TEST_F(RequestOptionsTest, FillsScheduling) {
  parse({"hello"});
  EXPECT_FALSE(request_.has_priority() || request_.has_prefix_cache());
  parse({"--priority", "-3", "--bypass-prefix-cache", "--cache-salt", "team a", "hello"});
  EXPECT_EQ(request_.priority(), -3);
  EXPECT_TRUE(request_.prefix_cache().bypass());
  EXPECT_EQ(request_.prefix_cache().salt(), "team a");
}

TEST_F(RequestOptionsTest, FillsSpeculation) {
  parse({"hello"});
  EXPECT_FALSE(request_.has_speculation());
  parse({"--lookup-tokens", "16", "hello"});
  EXPECT_EQ(request_.speculation().lookup_tokens(), 16);
}

TEST_F(RequestOptionsTest, RefusesWhatIsNoNumber) {
  EXPECT_THROW(parse({"--top-k", "many"}), CLI::ConversionError);
}

TEST_F(RequestOptionsTest, FillsEverySamplingField) {
  parse({"--temperature",
         "0",
         "--top-k",
         "5",
         "--top-p",
         "0.5",
         "--min-p",
         "0.1",
         "--repetition-penalty",
         "1.5",
         "--presence-penalty",
         "-1",
         "--frequency-penalty",
         "2",
         "--seed",
         "18446744073709551615",
         "--max-tokens",
         "7",
         "--min-tokens",
         "3",
         "--stop",
         "a",
         "--stop",
         "b c",
         "--stop-token-id",
         "9",
         "--ignore-eos",
         "--logprobs",
         "2",
         "--n",
         "4"});
  const auto& s = request_.sampling();
  EXPECT_TRUE(s.has_temperature());
  EXPECT_EQ(s.temperature(), 0.0F);
  EXPECT_EQ(s.top_k(), 5);
  EXPECT_EQ(s.top_p(), 0.5F);
  EXPECT_EQ(s.min_p(), 0.1F);
  EXPECT_EQ(s.repetition_penalty(), 1.5F);
  EXPECT_EQ(s.presence_penalty(), -1.0F);
  EXPECT_EQ(s.frequency_penalty(), 2.0F);
  EXPECT_EQ(s.seed(), 18446744073709551615U);
  EXPECT_EQ(s.max_tokens(), 7);
  EXPECT_EQ(s.min_tokens(), 3);
  ASSERT_EQ(s.stop_size(), 2);
  EXPECT_EQ(s.stop(1), "b c");
  ASSERT_EQ(s.stop_token_ids_size(), 1);
  EXPECT_EQ(s.stop_token_ids(0), 9);
  EXPECT_TRUE(s.ignore_eos());
  EXPECT_EQ(s.logprobs(), 2);
  EXPECT_EQ(s.n(), 4);
  // A field added to the message needs an option too.
  EXPECT_EQ(v1::SamplingParams::descriptor()->field_count(), 15);
}

TEST_F(RequestOptionsTest, PromptComesAsTextOrChat) {
  parse({"hello"});
  ASSERT_TRUE(fill_prompt(prompt_, request_).ok());
  EXPECT_EQ(request_.text(), "hello");
  prompt_.system = "be brief";
  ASSERT_TRUE(fill_prompt(prompt_, request_).ok());
  ASSERT_EQ(request_.chat().messages_size(), 2);
  EXPECT_EQ(request_.chat().messages(0).role(), "system");
  EXPECT_EQ(request_.chat().messages(1).role(), "user");
  EXPECT_EQ(request_.chat().messages(1).content(), "hello");
}

TEST_F(RequestOptionsTest, PromptOfAScoreRequestComesTheSameWay) {
  v1::ScoreRequest score;
  parse({"hello", "--system", "be brief"});
  ASSERT_TRUE(fill_prompt(prompt_, score).ok());
  ASSERT_EQ(score.chat().messages_size(), 2);
  EXPECT_EQ(score.chat().messages(1).content(), "hello");
}

TEST_F(RequestOptionsTest, PromptComesFromAFileByteForByte) {
  const std::string path = ::testing::TempDir() + "kvcrush_prompt.txt";
  const std::string bytes = "line\r\n\xC3\xA9 end\n";
  std::ofstream(path, std::ios::binary) << bytes;
  parse({"--file", path});
  ASSERT_TRUE(fill_prompt(prompt_, request_).ok());
  EXPECT_EQ(request_.text(), bytes);
}

TEST_F(RequestOptionsTest, SaysWhatIsWrongWithAPrompt) {
  EXPECT_NE(fill_prompt(prompt_, request_).message.find("no prompt"), std::string::npos);
  prompt_.file = "/nonexistent/prompt.txt";
  EXPECT_NE(fill_prompt(prompt_, request_).message.find("/nonexistent/prompt.txt"), std::string::npos);
  prompt_.file = ::testing::TempDir();
  EXPECT_FALSE(fill_prompt(prompt_, request_).ok()) << "a folder is no prompt";
  prompt_.argument = "hello";
  EXPECT_NE(fill_prompt(prompt_, request_).message.find("not both"), std::string::npos);
}

}  // namespace
}  // namespace kvcrush::cli
