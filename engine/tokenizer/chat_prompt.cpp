#include "engine/tokenizer/chat_prompt.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "engine/tokenizer/jinja/json_value.h"

namespace kvcrush {
namespace {

using jinja::Value;
using Entries = std::vector<std::pair<Value, Value>>;

// These come from a short list, so they cannot forge anything, and some templates build a special token
// around them. Any other role is a user's text like the content.
bool is_known_role(std::string_view role) {
  constexpr std::string_view kRoles[] = {"system", "user",    "assistant", "developer",
                                         "tool",   "ipython", "function",  "model"};
  return std::find(std::begin(kRoles), std::end(kRoles), role) != std::end(kRoles);
}

// A refusal that names its field.
class FieldError : public std::runtime_error {
 public:
  FieldError(const std::string& field, const std::string& what) : std::runtime_error(field + " " + what) {}
};

class Builder {
 public:
  Value messages(const std::vector<ChatMessage>& messages) {
    std::vector<Value> items;
    items.reserve(messages.size());
    for (std::size_t i = 0; i < messages.size(); ++i)
      items.push_back(message(messages[i], "messages[" + std::to_string(i) + "]"));
    return jinja::make_list(std::move(items));
  }

  Value tools(const std::vector<std::string>& tools) {
    if (tools.empty()) return jinja::make_none();
    std::vector<Value> items;
    items.reserve(tools.size());
    for (std::size_t i = 0; i < tools.size(); ++i)
      items.push_back(object(tools[i], "tools[" + std::to_string(i) + "]"));
    return jinja::make_list(std::move(items));
  }

  void add_kwargs(const std::string& json, jinja::Variables& variables) {
    if (json.empty()) return;
    const Value kwargs = object(json, "template_kwargs");
    for (const auto& [key, value] : kwargs.as<jinja::DictPtr>()->entries) {
      const std::string& name = key.as<jinja::TextPtr>()->text();
      constexpr std::string_view kTaken[] = {
          "messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "unk_token", "pad_token"};
      if (std::find(std::begin(kTaken), std::end(kTaken), name) != std::end(kTaken)) {
        throw FieldError(
            "template_kwargs",
            "has the key \"" + name +
                "\", allowed: keys other than what the request's own fields and the tokenizer set");
      }
      variables.by_name[name] = value;
    }
  }

 private:
  static Value own_text(std::string_view text) { return jinja::make_text(text); }
  static Value user_text(std::string_view text) { return jinja::make_text(text, true); }

  Value object(const std::string& json, const std::string& field) {
    if (json.size() > kMaxChatJsonBytes) {
      throw FieldError(field, "is " + std::to_string(json.size()) + " bytes long, allowed: at most " +
                                  std::to_string(kMaxChatJsonBytes));
    }
    try {
      Value value = jinja::parse_json(json, runtime_);
      if (value.is<jinja::DictPtr>()) return value;
      throw jinja::TemplateError("is " + std::string(jinja::type_name(value)));
    } catch (const jinja::LimitError&) {
      throw FieldError(field, "holds too much with what comes before it, allowed: at most " +
                                  std::to_string(jinja::kMaxSteps) + " values in a chat");
    } catch (const jinja::TemplateError& error) {
      throw FieldError(field, std::string(error.what()) + ", allowed: a JSON object");
    }
  }

  Value message(const ChatMessage& message, const std::string& field) {
    Entries entries = {{own_text("role"), jinja::make_text(message.role, !is_known_role(message.role))},
                       {own_text("content"), content(message)}};
    const auto add_text = [&entries](const char* key, const std::string& text) {
      if (!text.empty()) entries.emplace_back(own_text(key), user_text(text));
    };
    add_text("reasoning_content", message.reasoning_content);
    if (!message.tool_calls.empty())
      entries.emplace_back(own_text("tool_calls"), tool_calls(message.tool_calls, field));
    add_text("tool_call_id", message.tool_call_id);
    add_text("name", message.name);
    add_extra(message.extra_fields, field + ".extra_fields", entries);
    return jinja::make_dict(entries, runtime_);
  }

  Value content(const ChatMessage& message) {
    if (message.content_parts.empty()) return user_text(message.content);
    std::vector<Value> parts;
    for (const std::string& part : message.content_parts) {
      parts.push_back(jinja::make_dict(
          {{own_text("type"), own_text("text")}, {own_text("text"), user_text(part)}}, runtime_));
    }
    return jinja::make_list(std::move(parts));
  }

  Value tool_calls(const std::vector<ChatToolCall>& calls, const std::string& field) {
    std::vector<Value> items;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      const ChatToolCall& call = calls[i];
      const std::string path = field + ".tool_calls[" + std::to_string(i) + "].arguments";
      Value arguments =
          call.arguments.empty() ? jinja::make_dict({}, runtime_) : object(call.arguments, path);
      Value function = jinja::make_dict(
          {{own_text("name"), user_text(call.name)}, {own_text("arguments"), std::move(arguments)}},
          runtime_);
      Entries entries;
      if (!call.id.empty()) entries.emplace_back(own_text("id"), user_text(call.id));
      entries.emplace_back(own_text("type"), own_text("function"));
      entries.emplace_back(own_text("function"), std::move(function));
      items.push_back(jinja::make_dict(entries, runtime_));
    }
    return jinja::make_list(std::move(items));
  }

  void add_extra(const std::string& json, const std::string& field, Entries& entries) {
    if (json.empty()) return;
    const Value extra = object(json, field);
    constexpr std::string_view kTaken[] = {"role",       "content",      "reasoning_content",
                                           "tool_calls", "tool_call_id", "name"};
    for (const auto& [key, value] : extra.as<jinja::DictPtr>()->entries) {
      const std::string& name = key.as<jinja::TextPtr>()->text();
      if (std::find(std::begin(kTaken), std::end(kTaken), name) != std::end(kTaken)) {
        throw FieldError(field,
                         "has the key \"" + name + "\", allowed: keys that are not fields of a message");
      }
      entries.emplace_back(key, value);
    }
  }

  jinja::Runtime runtime_;
};

}  // namespace

Result<ChatVariables> ChatVariables::parse(const ChatPrompt& prompt) {
  try {
    Builder builder;
    jinja::Variables variables;
    auto& values = variables.by_name;
    values["documents"] = jinja::make_none();
    builder.add_kwargs(prompt.template_kwargs, variables);
    values["messages"] = builder.messages(prompt.messages);
    values["tools"] = builder.tools(prompt.tools);
    values["add_generation_prompt"] = jinja::make_bool(prompt.add_generation_prompt);
    return ChatVariables(std::make_shared<const jinja::Variables>(std::move(variables)));
  } catch (const FieldError& error) {
    return invalid_argument(error.what());
  } catch (const std::exception& error) {
    return invalid_argument(std::string("messages hold too much: ") + error.what() + ", allowed: less");
  }
}

}  // namespace kvcrush
