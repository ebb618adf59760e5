// A conversation from the command line: messages and tools from files, in the form that other servers' APIs
// take them.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "client/kvcrush_client.h"

namespace kvcrush::cli {

// What a chat has beside its messages.
struct ChatSettings {
  std::optional<std::string> tools;            // file; "-" = standard input
  std::optional<std::string> template_kwargs;  // JSON object
  bool no_generation_prompt = false;

  bool any() const { return tools || template_kwargs || no_generation_prompt; }
};

void add_chat_settings(CLI::App& app, ChatSettings& settings);

// INVALID_ARGUMENT naming the file and what in it is wrong. What only the server can judge is its to say.
client::Status apply_chat_settings(const ChatSettings& settings, v1::ChatMessages& chat);

// A JSON list of {"role", "content", "tool_calls", ...}. Content is text, null or a list of parts of type
// "text"; arguments of calls are an object or its text; keys that ChatMessage has no field for become
// `extra_fields`.
client::Status read_messages(const std::string& path, v1::ChatMessages& chat);

}  // namespace kvcrush::cli
