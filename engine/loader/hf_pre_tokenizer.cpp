#include "engine/loader/hf_pre_tokenizer.h"

#include <array>
#include <string_view>
#include <vector>

#include "engine/core/readable.h"
#include "engine/loader/hf_steps.h"
#include "engine/loader/json_fields.h"

namespace kvcrush {
namespace {

using nlohmann::json;

struct KnownSplit {
  std::string_view name;
  std::string_view regex;
};

// As the families' tokenizer.json files spell them.
constexpr std::array<KnownSplit, 4> kSplits = {{
    {"llama-bpe",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
     R"(\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"qwen2", R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
              R"(\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"tekken", R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
               R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|)"
               R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"gpt-4o",
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
}};

constexpr const char* kKnown =
    "; known: ByteLevel, Digits + ByteLevel, the Split + ByteLevel of llama3, qwen2, tekken and gpt-4o, "
    "Metaspace, and "
    "Split at ' ' where the normalizer leaves none";

Result<std::string> recognise_split(const json& step, const std::string& source) {
  JsonFields fields(step, source + ": pre_tokenizer Split");
  const json* pattern = fields.find("pattern");
  const auto regex =
      pattern != nullptr && pattern->is_object() ? pattern->find("Regex") : json::const_iterator();
  const bool has_regex =
      pattern != nullptr && pattern->is_object() && regex != pattern->end() && regex->is_string();
  // Every character belongs to some match, so keeping what matches and dropping the rest cuts the same words.
  const std::string behavior = fields.text_or("behavior", "");
  const bool invert = fields.flag_or("invert", false);
  const bool isolated = invert ? behavior == "Removed" : behavior == "Isolated";
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

Status read_byte_level(const std::vector<const json*>& steps, const std::string& source,
                       const Status& unknown, TokenizerSpec& spec) {
  const std::string types = step_types(steps);
  JsonFields byte_level(*steps.back(), source + ": pre_tokenizer ByteLevel");
  const bool adds_space = byte_level.flag_or("add_prefix_space", true);
  const bool use_regex = byte_level.flag_or("use_regex", true);
  if (!byte_level.status().ok()) return byte_level.status();
  spec.model = "gpt2";
  spec.space_prefix = adds_space ? SpacePrefix::kMissing : SpacePrefix::kNone;
  if (types == "ByteLevel" && use_regex) {
    spec.pre_tokenizer = "gpt-2";
  } else if (types == "Digits + ByteLevel" && use_regex) {
    JsonFields digits(*steps.front(), source + ": pre_tokenizer Digits");
    if (!digits.flag_or("individual_digits", false)) {
      digits.fail("field 'individual_digits' is false; supported: true");
    }
    if (!digits.status().ok()) return digits.status();
    spec.pre_tokenizer = "smollm";
  } else if (types == "Split + ByteLevel" && !use_regex) {
    Result<std::string> name = recognise_split(*steps.front(), source);
    if (!name.ok()) return name.status();
    spec.pre_tokenizer = std::move(*name);
  } else {
    return unknown;
  }
  return {};
}

Status read_metaspace(const json& step, const std::string& source, TokenizerSpec& spec) {
  JsonFields fields(step, source + ": pre_tokenizer Metaspace");
  const std::string replacement = fields.text_or("replacement", "\u2581");
  if (replacement != "\u2581")
    fields.fail("field 'replacement' is " + in_quotes(replacement) + "; supported: U+2581");
  const bool adds_space = fields.flag_or("add_prefix_space", true);
  const std::string scheme = fields.text_or("prepend_scheme", adds_space ? "always" : "never");
  spec.split_at_spaces = fields.flag_or("split", true);
  if (scheme == "first") {
    spec.space_prefix = SpacePrefix::kStartOfText;
  } else if (scheme == "always") {
    spec.space_prefix = SpacePrefix::kMissing;
  } else if (scheme != "never") {
    fields.fail("field 'prepend_scheme' is " + in_quotes(scheme) + "; allowed: first, always, never");
  }
  return fields.status();
}

// A Split at spaces, which the normalizer leaves none of.
bool is_idle_split(const json& step) {
  return step_type(step) == "Split" && has_string_pattern(step, " ");
}

}  // namespace

Status recognise_pre_tokenizer(const json& tokenizer, bool escapes_spaces, const std::string& source,
                               TokenizerSpec& spec) {
  const std::vector<const json*> steps = read_steps(tokenizer, "pre_tokenizer", "pretokenizers");
  const std::string types = step_types(steps);
  const Status unknown =
      invalid_argument(source + ": pre_tokenizer " + in_quotes(types) + " is not known" + kKnown);
  if (!steps.empty() && step_type(*steps.back()) == "ByteLevel") {
    if (escapes_spaces) {
      return invalid_argument(
          source + ": pre_tokenizer ByteLevel after a normalizer that replaces spaces is not supported");
    }
    return read_byte_level(steps, source, unknown, spec);
  }
  spec.model = "llama";
  if (types == "Metaspace") {
    if (spec.space_prefix == SpacePrefix::kNone) return read_metaspace(*steps.front(), source, spec);
    return invalid_argument(source +
                            ": pre_tokenizer Metaspace after a normalizer with Prepend is not supported");
  }
  const bool idle = steps.empty() || (steps.size() == 1 && is_idle_split(*steps.front()));
  return idle && escapes_spaces ? Status() : unknown;
}

}  // namespace kvcrush
