// Where a prompt comes from: an argument, a file or standard input; as it is or as a user message.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "client/cli/chat_source.h"
#include "client/kvcrush_client.h"

namespace kvcrush::cli {

struct PromptSource {
  std::optional<std::string> argument;  // "-" = standard input
  std::optional<std::string> file;      // "-" = standard input
  std::optional<std::string> system;    // implies chat
  std::optional<std::string> messages;  // file of a whole conversation instead of the prompt; implies chat
  ChatSettings chat_settings;           // any of them implies chat
  bool chat = false;

  bool is_chat() const { return chat || system || messages || chat_settings.any(); }
};

void add_prompt_options(CLI::App& app, PromptSource& source);

// INVALID_ARGUMENT when there is no prompt, two of them, or a file that cannot be read.
client::Result<std::string> read_prompt(const PromptSource& source);
// The whole file; "-" reads standard input.
client::Result<std::string> read_file(const std::string& path);
// INVALID_ARGUMENT also where messages are given beside a prompt or a system message.
client::Status read_chat(const PromptSource& source, v1::ChatMessages& chat);
// Reads the prompt and puts it into the request, whichever kind it is.
template <typename Request>
client::Status fill_prompt(const PromptSource& source, Request& request) {
  if (source.is_chat()) return read_chat(source, *request.mutable_chat());
  const auto prompt = read_prompt(source);
  if (!prompt.ok()) return prompt.status();
  request.set_text(*prompt);
  return {};
}

}  // namespace kvcrush::cli
