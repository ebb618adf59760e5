// Where a prompt comes from: an argument, a file or standard input; as it is or as a user message.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "client/kvcrush_client.h"

namespace kvcrush::cli {

struct PromptSource {
  std::optional<std::string> argument;  // "-" = standard input
  std::optional<std::string> file;      // "-" = standard input
  std::optional<std::string> system;    // implies chat
  bool chat = false;
};

void add_prompt_options(CLI::App& app, PromptSource& source);

// INVALID_ARGUMENT when there is no prompt, two of them, or a file that cannot be read.
client::Result<std::string> read_prompt(const PromptSource& source);
// The whole file; "-" reads standard input.
client::Result<std::string> read_file(const std::string& path);
v1::ChatMessages as_chat(const PromptSource& source, const std::string& prompt);
// Reads the prompt and puts it into the request, whichever kind it is.
template <typename Request>
client::Status fill_prompt(const PromptSource& source, Request& request) {
  const auto prompt = read_prompt(source);
  if (!prompt.ok()) return prompt.status();
  if (source.chat || source.system)
    *request.mutable_chat() = as_chat(source, *prompt);
  else
    request.set_text(*prompt);
  return {};
}

}  // namespace kvcrush::cli
