#include <algorithm>
#include <array>
#include <ctime>

#include "engine/tokenizer/jinja/builtins.h"

namespace kvcrush::jinja {
namespace {

Value make_space(const Arguments& arguments, Runtime& runtime) {
  if (arguments.positional.size() > 1)
    throw TemplateError("namespace() takes at most 1 argument without a name");
  NamespacePtr space = runtime.make_namespace();
  if (const Value* values = arguments.find(0, ""); values != nullptr && values->is<DictPtr>()) {
    runtime.charge_steps(values->as<DictPtr>()->entries.size());
    for (const auto& [key, value] : values->as<DictPtr>()->entries) {
      const std::string& name = to_marked_text(key, "a namespace's attribute").text();
      runtime.charge_bytes(name.size());
      space->attributes[name] = value;
    }
  }
  for (const auto& [name, value] : arguments.named) space->attributes[name] = value;
  return {space};
}

Value make_range(const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"start", "stop", "step"});
  std::int64_t start = arguments.int_or(0, "start", 0);
  std::int64_t stop = arguments.int_or(1, "stop", 0);
  const std::int64_t step = arguments.int_or(2, "step", 1);
  if (arguments.positional.size() < 2) {
    stop = start;
    start = 0;
  }
  if (step == 0) throw TemplateError("the step of range() must not be 0");
  std::vector<Value> numbers;
  for (std::int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<std::int64_t>(numbers.size()) == kMaxRange) {
      throw TemplateError("range() has more than " + std::to_string(kMaxRange) + " numbers");
    }
    numbers.push_back(make_int(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  runtime.charge_steps(numbers.size());
  return make_list(std::move(numbers));
}

Value local_time(const Arguments& arguments) {
  arguments.allow({"format"});
  const MarkedText& marked = arguments.require_text(0, "format");
  const std::string& format = marked.text();
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  if (format.empty() || localtime_r(&now, &parts) == nullptr) return make_text("");
  std::array<char, 1024> buffer{};
  const std::size_t num_bytes = std::strftime(buffer.data(), buffer.size(), format.c_str(), &parts);
  // What is no directive of the format comes out as it stands.
  const bool from_message = std::any_of(marked.runs().begin(), marked.runs().end(),
                                        [](const MarkedText::Run& run) { return run.from_message; });
  return make_text(std::string_view(buffer.data(), num_bytes), from_message);
}

Value make_dict_of(const Arguments& arguments, Runtime& runtime) {
  if (arguments.positional.size() > 1) throw TemplateError("dict() takes at most 1 argument without a name");
  std::vector<std::pair<Value, Value>> entries;
  if (!arguments.positional.empty()) {
    if (!arguments.positional[0].is<DictPtr>())
      throw TemplateError("the argument of dict() must be a dict, not " +
                          std::string(type_name(arguments.positional[0])));
    entries = arguments.positional[0].as<DictPtr>()->entries;
  }
  for (const auto& [name, value] : arguments.named) entries.emplace_back(make_text(name), value);
  return make_dict(entries, runtime);
}

}  // namespace

const std::vector<std::string_view>& global_functions() {
  static const std::vector<std::string_view> names = {"dict", "namespace", "raise_exception", "range",
                                                      "strftime_now"};
  return names;
}

Value call_function(std::string_view name, const Arguments& arguments, Runtime& runtime) {
  if (name == "namespace") return make_space(arguments, runtime);
  if (name == "range") return make_range(arguments, runtime);
  if (name == "strftime_now") return local_time(arguments);
  if (name == "dict") return make_dict_of(arguments, runtime);
  arguments.allow({"message"});
  throw TemplateError("the template refuses: " + arguments.require_text(0, "message").text());
}

}  // namespace kvcrush::jinja
