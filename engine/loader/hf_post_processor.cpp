#include "engine/loader/hf_post_processor.h"

#include <algorithm>

#include "engine/core/readable.h"
#include "engine/loader/hf_steps.h"

namespace kvcrush {
namespace {

using nlohmann::json;

const json* find_field(const json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found == object.end() ? nullptr : &*found;
}

// The id of a special token named in a template.
Result<TokenId> find_special(const json& special, const std::string& where, const TokenizerSpec& spec) {
  const json* name = find_field(special, "id");
  const std::string text = name != nullptr && name->is_string() ? name->get<std::string>() : std::string();
  const auto found = std::find(spec.tokens.begin(), spec.tokens.end(), text);
  if (!text.empty() && found != spec.tokens.end()) return static_cast<TokenId>(found - spec.tokens.begin());
  return invalid_argument(where + "special token " + in_quotes(text) + " is not in the vocabulary");
}

// At most one special token before the text, and one after it.
Status read_template(const json& step, const std::string& where, TokenizerSpec& spec) {
  const json* single = find_field(step, "single");
  if (single == nullptr || !single->is_array()) return invalid_argument(where + "field 'single' is no array");
  bool after_text = false;
  for (const json& part : *single) {
    if (find_field(part, "Sequence") != nullptr && !after_text) {
      after_text = true;
      continue;
    }
    const json* special = find_field(part, "SpecialToken");
    bool& adds = after_text ? spec.add_eos : spec.add_bos;
    if (special == nullptr || adds) {
      return invalid_argument(where +
                              "field 'single' has more than one token before or after one text; supported: "
                              "one of each at most");
    }
    Result<TokenId> id = find_special(*special, where, spec);
    if (!id.ok()) return id.status();
    adds = true;
    (after_text ? spec.eos_id : spec.bos_id) = *id;
  }
  return {};
}

}  // namespace

Status read_post_processor(const json& tokenizer, const std::string& source, TokenizerSpec& spec) {
  bool has_template = false;
  for (const json* step : read_steps(tokenizer, "post_processor", "processors")) {
    const std::string type = step_type(*step);
    if (type == "ByteLevel") continue;  // changes offsets alone
    if (type != "TemplateProcessing" || has_template) {
      return invalid_argument(source + ": post_processor: type is " + in_quotes(type) +
                              "; supported: ByteLevel, and one TemplateProcessing");
    }
    has_template = true;
    KVCRUSH_RETURN_IF_ERROR(read_template(*step, source + ": post_processor TemplateProcessing: ", spec));
  }
  return {};
}

}  // namespace kvcrush
