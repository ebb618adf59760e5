#include "tests/fuzz/message_builder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <string_view>

#include "engine/tokenizer/incremental_decoder.h"

namespace kvcrush::fuzz {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

double any_double(FuzzInput& input) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr std::array<double, 12> kValues = {0.0, 0.25, 0.5, 1.0, 2.0,       -1.0,
                                              100, 1e-9, 1e9, NAN, kInfinity, -kInfinity};
  const std::size_t choice = input.below(kValues.size() + 2);
  return choice < kValues.size() ? kValues[choice] : input.number<double>();
}

// Most limits of the API are small numbers.
std::int64_t any_integer(FuzzInput& input) {
  switch (input.below(4)) {
    case 0:
      return input.number<std::int8_t>();
    case 1:
      return input.number<std::int32_t>();
    case 2:
      return input.number<std::int64_t>();
    default:
      return input.number<std::uint8_t>() * 4;
  }
}

// Fields that hold JSON get some that is.
std::string any_text(const FieldDescriptor& field, FuzzInput& input) {
  constexpr std::array<std::string_view, 4> kJsonFields = {"tools", "arguments", "template_kwargs",
                                                           "extra_fields"};
  constexpr std::array<const char*, 4> kObjects = {R"({"a": "<|end|>"})", R"({"b": [1, {"c": null}]})",
                                                   R"({"content": 1})", R"({"x": 1e5, "x": true)"};
  const bool holds_json =
      std::find(kJsonFields.begin(), kJsonFields.end(), field.name()) != kJsonFields.end();
  if (holds_json && input.flag()) return kObjects[input.below(kObjects.size())];
  return replace_broken_utf8(input.text());
}

// `set` takes a value that converts to the field's type.
template <typename Set>
void set_scalar(const FieldDescriptor& field, FuzzInput& input, Set set) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return set(any_double(input));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return set(static_cast<float>(any_double(input)));
    case FieldDescriptor::CPPTYPE_BOOL:
      return set(input.flag());
    case FieldDescriptor::CPPTYPE_INT32:
      return set(static_cast<std::int32_t>(any_integer(input)));
    case FieldDescriptor::CPPTYPE_INT64:
      return set(any_integer(input));
    case FieldDescriptor::CPPTYPE_UINT32:
      return set(static_cast<std::uint32_t>(any_integer(input)));
    case FieldDescriptor::CPPTYPE_UINT64:
      return set(static_cast<std::uint64_t>(any_integer(input)));
    default:
      return;
  }
}

struct Setter {
  Message& message;
  const FieldDescriptor* field;

  template <typename T>
  void put(T value, void (google::protobuf::Reflection::*one)(Message*, const FieldDescriptor*, T) const,
           void (google::protobuf::Reflection::*more)(Message*, const FieldDescriptor*, T) const) {
    const google::protobuf::Reflection& reflection = *message.GetReflection();
    (reflection.*(field->is_repeated() ? more : one))(&message, field, value);
  }
  using Reflection = google::protobuf::Reflection;
  void operator()(double value) { put(value, &Reflection::SetDouble, &Reflection::AddDouble); }
  void operator()(float value) { put(value, &Reflection::SetFloat, &Reflection::AddFloat); }
  void operator()(bool value) { put(value, &Reflection::SetBool, &Reflection::AddBool); }
  void operator()(std::int32_t value) { put(value, &Reflection::SetInt32, &Reflection::AddInt32); }
  void operator()(std::int64_t value) { put(value, &Reflection::SetInt64, &Reflection::AddInt64); }
  void operator()(std::uint32_t value) { put(value, &Reflection::SetUInt32, &Reflection::AddUInt32); }
  void operator()(std::uint64_t value) { put(value, &Reflection::SetUInt64, &Reflection::AddUInt64); }
};

void set_field(Message& message, const FieldDescriptor* field, FuzzInput& input) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    return fill_message(field->is_repeated() ? *reflection.AddMessage(&message, field)
                                             : *reflection.MutableMessage(&message, field),
                        input);
  }
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    // One number more than the enum has: others may know a newer one.
    const auto number =
        static_cast<int>(input.below(static_cast<std::size_t>(field->enum_type()->value_count()) + 1));
    return field->is_repeated() ? reflection.AddEnumValue(&message, field, number)
                                : reflection.SetEnumValue(&message, field, number);
  }
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    std::string text = any_text(*field, input);
    return field->is_repeated() ? reflection.AddString(&message, field, std::move(text))
                                : reflection.SetString(&message, field, std::move(text));
  }
  set_scalar(*field, input, Setter{message, field});
}

}  // namespace

void fill_message(google::protobuf::Message& message, FuzzInput& input) {
  const google::protobuf::Descriptor& type = *message.GetDescriptor();
  const auto num_fields = static_cast<std::size_t>(type.field_count());
  for (std::size_t left = input.below(32); left > 0 && !input.empty(); --left) {
    set_field(message, type.field(static_cast<int>(input.below(num_fields))), input);
  }
}

}  // namespace kvcrush::fuzz
