#include "engine/loader/hf_pre_tokenizer.h"

#include <array>
#include <string_view>
#include <vector>

#include "engine/core/readable.h"
#include "engine/loader/json_fields.h"

namespace kvcrush {
namespace {

using nlohmann::json;

struct KnownSplit {
  std::string_view name;
  std::string_view regex;
};

// As the two families' tokenizer.json files spell them; they differ in how many digits stay together.
constexpr std::array<KnownSplit, 2> kSplits = {{
    {"llama-bpe",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
     R"(\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"qwen2", R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
              R"(\s*[\r\n]+|\s+(?!\S)|\s+)"},
}};

constexpr const char* kKnown =
    "; known: ByteLevel, Digits + ByteLevel, and the Split + ByteLevel of llama3 and qwen2";

std::string type_of(const json& step) {
  const auto type = step.is_object() ? step.find("type") : step.end();
  return type != step.end() && type->is_string() ? type->get<std::string>() : std::string();
}

std::vector<const json*> flatten(const json& pre_tokenizer) {
  std::vector<const json*> steps;
  const auto list = pre_tokenizer.is_object() ? pre_tokenizer.find("pretokenizers") : pre_tokenizer.end();
  if (type_of(pre_tokenizer) == "Sequence" && list != pre_tokenizer.end() && list->is_array()) {
    for (const json& step : *list) steps.push_back(&step);
  } else {
    steps.push_back(&pre_tokenizer);
  }
  return steps;
}

Result<std::string> recognise_split(const json& step, const std::string& source) {
  JsonFields fields(step, source + ": pre_tokenizer Split");
  const json* pattern = fields.find("pattern");
  const auto regex =
      pattern != nullptr && pattern->is_object() ? pattern->find("Regex") : json::const_iterator();
  const bool has_regex =
      pattern != nullptr && pattern->is_object() && regex != pattern->end() && regex->is_string();
  const bool isolated = fields.text_or("behavior", "") == "Isolated" && !fields.flag_or("invert", false);
  if (!fields.status().ok()) return fields.status();
  if (has_regex && isolated) {
    for (const KnownSplit& split : kSplits) {
      if (split.regex == regex->get_ref<const std::string&>()) return std::string(split.name);
    }
  }
  return invalid_argument(source + ": pre_tokenizer Split with the pattern " +
                          (has_regex ? in_quotes(regex->get_ref<const std::string&>()) : "(no regex)") +
                          " is not known" + kKnown);
}

}  // namespace

Result<PreTokenizer> recognise_pre_tokenizer(const json& pre_tokenizer, const std::string& source) {
  const std::vector<const json*> steps = flatten(pre_tokenizer);
  std::string types;
  for (const json* step : steps) types += (types.empty() ? "" : " + ") + type_of(*step);
  const Status unknown =
      invalid_argument(source + ": pre_tokenizer " + in_quotes(types) + " is not known" + kKnown);
  if (steps.empty() || type_of(*steps.back()) != "ByteLevel") return unknown;

  JsonFields byte_level(*steps.back(), source + ": pre_tokenizer ByteLevel");
  PreTokenizer result;
  result.add_space_prefix = byte_level.flag_or("add_prefix_space", true);
  const bool use_regex = byte_level.flag_or("use_regex", true);
  if (!byte_level.status().ok()) return byte_level.status();
  if (types == "ByteLevel" && use_regex) {
    result.name = "gpt-2";
  } else if (types == "Digits + ByteLevel" && use_regex) {
    JsonFields digits(*steps.front(), source + ": pre_tokenizer Digits");
    if (!digits.flag_or("individual_digits", false)) {
      digits.fail("field 'individual_digits' is false; supported: true");
    }
    if (!digits.status().ok()) return digits.status();
    result.name = "smollm";
  } else if (types == "Split + ByteLevel" && !use_regex) {
    Result<std::string> name = recognise_split(*steps.front(), source);
    if (!name.ok()) return name.status();
    result.name = std::move(*name);
  } else {
    return unknown;
  }
  return result;
}

}  // namespace kvcrush
