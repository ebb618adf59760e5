#include "client/cli/chat_source.h"

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "client/cli/prompt_source.h"

namespace kvcrush::cli {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what);
}

client::Status refused(const std::string& source, const std::string& why) {
  return {client::Code::kInvalidArgument, source + ": " + why};
}

// The list in the file, each entry given to `use` with its place, "[3]".
template <typename Use>
client::Status for_each_entry(const std::string& path, Use use) {
  const auto text = read_file(path);
  if (!text.ok()) return text.status();
  try {
    const Json list = Json::parse(*text);
    if (!list.is_array()) fail("is not a JSON list");
    for (std::size_t i = 0; i < list.size(); ++i) use(list[i], "[" + std::to_string(i) + "]");
  } catch (const std::exception& error) {
    return refused(path, error.what());
  }
  return {};
}

std::string text_of(const Json& value, const std::string& place) {
  if (value.is_null()) return {};
  if (!value.is_string()) fail(place + " is not a string");
  return value.get<std::string>();
}

void set_content(const Json& value, const std::string& place, v1::ChatMessage& message) {
  if (!value.is_array()) {
    message.set_content(text_of(value, place));
    return;
  }
  for (std::size_t i = 0; i < value.size(); ++i) {
    const std::string part = place + "[" + std::to_string(i) + "]";
    if (!value[i].is_object() || value[i].value("type", "") != "text")
      fail(part + " is no part of type \"text\"");
    message.add_content_parts()->set_text(text_of(value[i].value("text", Json()), part + ".text"));
  }
}

void add_tool_calls(const Json& calls, const std::string& place, v1::ChatMessage& message) {
  if (calls.is_null()) return;
  if (!calls.is_array()) fail(place + " is not a list");
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const std::string call = place + "[" + std::to_string(i) + "]";
    if (!calls[i].is_object()) fail(call + " is not an object");
    const Json function = calls[i].value("function", calls[i]);
    if (!function.is_object()) fail(call + ".function is not an object");
    v1::ToolCall& wire = *message.add_tool_calls();
    wire.set_id(text_of(calls[i].value("id", Json()), call + ".id"));
    wire.set_name(text_of(function.value("name", Json()), call + ".name"));
    const Json arguments = function.value("arguments", Json());
    if (!arguments.is_null())
      wire.set_arguments(arguments.is_string() ? arguments.get<std::string>() : arguments.dump());
  }
}

void fill_message(const Json& json, const std::string& place, v1::ChatMessage& message) {
  if (!json.is_object()) fail(place + " is not an object");
  Json extra = Json::object();
  for (const auto& [key, value] : json.items()) {
    const std::string field = place + "." + key;
    if (key == "role") {
      message.set_role(text_of(value, field));
    } else if (key == "content") {
      set_content(value, field, message);
    } else if (key == "tool_calls") {
      add_tool_calls(value, field, message);
    } else if (key == "tool_call_id") {
      message.set_tool_call_id(text_of(value, field));
    } else if (key == "name") {
      message.set_name(text_of(value, field));
    } else if (key == "reasoning_content") {
      message.set_reasoning_content(text_of(value, field));
    } else {
      extra[key] = value;
    }
  }
  if (!extra.empty()) message.set_extra_fields(extra.dump());
}

}  // namespace

void add_chat_settings(CLI::App& app, ChatSettings& settings) {
  app.add_option("--tools", settings.tools,
                 "JSON list of functions that the model may call, from a file; '-' reads standard input");
  app.add_option("--template-kwargs", settings.template_kwargs,
                 "JSON object of variables of the chat template, e.g. {\"enable_thinking\": false}");
  app.add_flag("--no-generation-prompt", settings.no_generation_prompt,
               "Do not end the prompt with the beginning of the assistant's turn");
}

client::Status apply_chat_settings(const ChatSettings& settings, v1::ChatMessages& chat) {
  if (settings.template_kwargs) chat.set_template_kwargs(*settings.template_kwargs);
  if (settings.no_generation_prompt) chat.set_add_generation_prompt(false);
  if (!settings.tools) return {};
  return for_each_entry(*settings.tools, [&chat](const Json& tool, const std::string& /*place*/) {
    chat.add_tools(tool.dump());
  });
}

client::Status read_messages(const std::string& path, v1::ChatMessages& chat) {
  return for_each_entry(path, [&chat](const Json& message, const std::string& place) {
    fill_message(message, place, *chat.add_messages());
  });
}

}  // namespace kvcrush::cli
