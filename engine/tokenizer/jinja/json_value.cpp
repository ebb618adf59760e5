#include "engine/tokenizer/jinja/json_value.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace kvcrush::jinja {
namespace {

// What nlohmann's parser calls as it reads. Containers are built on a stack, so depth costs no calls.
class ValueBuilder {
 public:
  ValueBuilder(std::size_t num_bytes, Runtime& runtime) : num_bytes_(num_bytes), runtime_(runtime) {}

  bool null() { return put(make_none()); }
  bool boolean(bool value) { return put(make_bool(value)); }
  bool number_integer(std::int64_t value) { return put(make_int(value)); }
  bool number_unsigned(std::uint64_t value) {
    if (value > INT64_MAX) throw TemplateError(kTooLarge);
    return put(make_int(static_cast<std::int64_t>(value)));
  }
  bool number_float(double value, const std::string& digits) {
    // The parser turns integers that do not fit into floats.
    if (digits.find_first_of(".eE") == std::string::npos) throw TemplateError(kTooLarge);
    return put(make_double(value));
  }
  bool string(std::string& value) { return put(make_user_text(value)); }
  bool binary(nlohmann::json::binary_t& /*value*/) { return false; }

  bool start_object(std::size_t /*size*/) { return open(true); }
  bool key(std::string& name) {
    open_.back().entries.emplace_back(make_user_text(name), Value());
    return true;
  }
  bool end_object() {
    Value dict = make_dict(open_.back().entries, runtime_);
    open_.pop_back();
    return put(std::move(dict));
  }
  bool start_array(std::size_t /*size*/) { return open(false); }
  bool end_array() {
    Value list = make_list(std::move(open_.back().items));
    open_.pop_back();
    return put(std::move(list));
  }

  // `position` counts from 1 and points at the character that does not fit. It is not shown: messages end up
  // in logs, which hold nothing of a prompt.
  bool parse_error(std::size_t position, const std::string& /*last_token*/,
                   const nlohmann::json::exception& /*error*/) {
    const std::size_t byte = position > 0 ? position - 1 : 0;
    throw TemplateError("stops being JSON at byte " + std::to_string(byte) +
                        (byte >= num_bytes_ ? ", its end" : ""));
  }

  Value take() { return std::move(root_); }

 private:
  struct Container {
    bool is_object = false;
    std::vector<std::pair<Value, Value>> entries;
    std::vector<Value> items;
  };

  static constexpr const char* kTooLarge = "holds an integer of more than 64 bits";

  Value make_user_text(const std::string& text) {
    runtime_.charge_bytes(text.size());
    return make_text(text, true);
  }

  bool open(bool is_object) {
    if (open_.size() >= static_cast<std::size_t>(kMaxValueDepth)) {
      throw TemplateError("is nested more than " + std::to_string(kMaxValueDepth) + " deep");
    }
    open_.push_back({is_object, {}, {}});
    return true;
  }

  bool put(Value value) {
    runtime_.charge_steps(1);
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (open_.back().is_object) {
      open_.back().entries.back().second = std::move(value);
    } else {
      open_.back().items.push_back(std::move(value));
    }
    return true;
  }

  std::size_t num_bytes_;
  Runtime& runtime_;
  std::vector<Container> open_;
  Value root_;
};

}  // namespace

Value parse_json(std::string_view text, Runtime& runtime) {
  ValueBuilder builder(text.size(), runtime);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

}  // namespace kvcrush::jinja
