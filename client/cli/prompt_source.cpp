#include "client/cli/prompt_source.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

namespace kvcrush::cli {
namespace {

std::string read_all(std::istream& in) {
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace

void add_prompt_options(CLI::App& app, PromptSource& source) {
  app.add_option("prompt", source.argument, "The prompt; '-' reads standard input");
  app.add_option("--file", source.file, "Read the prompt from a file; '-' reads standard input");
  app.add_flag("--chat", source.chat, "Send the prompt as a user message through the model's chat template");
  app.add_option("--system", source.system, "System message; implies --chat");
  app.add_option("--messages", source.messages,
                 "JSON list of messages instead of a prompt, from a file; '-' reads standard input");
  add_chat_settings(app, source.chat_settings);
}

client::Result<std::string> read_file(const std::string& path) {
  if (path == "-") return read_all(std::cin);
  std::error_code ignored;
  // Opening a folder succeeds and reading it throws.
  const bool folder = std::filesystem::is_directory(path, ignored);
  std::ifstream in(path, std::ios::binary);
  if (in && !folder) return read_all(in);
  const std::string reason = folder ? "it is a folder" : std::strerror(errno);
  return client::Status{client::Code::kInvalidArgument, "cannot read '" + path + "': " + reason};
}

client::Result<std::string> read_prompt(const PromptSource& source) {
  if (source.argument && source.file)
    return client::Status{client::Code::kInvalidArgument,
                          "give the prompt as an argument or with --file, not both"};
  if (source.file) return read_file(*source.file);
  if (!source.argument)
    return client::Status{client::Code::kInvalidArgument,
                          "no prompt: give it as an argument, with --file, or '-' for stdin"};
  return *source.argument == "-" ? read_file("-") : client::Result<std::string>(*source.argument);
}

client::Status read_chat(const PromptSource& source, v1::ChatMessages& chat) {
  if (const auto status = apply_chat_settings(source.chat_settings, chat); !status.ok()) return status;
  if (source.messages) {
    if (source.argument || source.file || source.system)
      return {client::Code::kInvalidArgument,
              "give --messages or a prompt with or without --system, not both"};
    return read_messages(*source.messages, chat);
  }
  const auto prompt = read_prompt(source);
  if (!prompt.ok()) return prompt.status();
  const auto add = [&chat](const char* role, const std::string& content) {
    auto* message = chat.add_messages();
    message->set_role(role);
    message->set_content(content);
  };
  if (source.system) add("system", *source.system);
  add("user", *prompt);
  return {};
}

}  // namespace kvcrush::cli
