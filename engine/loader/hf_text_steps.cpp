#include "engine/loader/hf_text_steps.h"

#include <array>
#include <string_view>
#include <vector>

#include "engine/core/readable.h"
#include "engine/loader/hf_pre_tokenizer.h"
#include "engine/loader/hf_steps.h"
#include "engine/loader/json_fields.h"

namespace kvcrush {
namespace {

using nlohmann::json;

constexpr const char* kEscape = "\u2581";

Status read_normalizer(const json& tokenizer, const std::string& source, bool& escapes_spaces,
                       TokenizerSpec& spec) {
  for (const json* step : read_steps(tokenizer, "normalizer", "normalizers")) {
    JsonFields fields(*step, source + ": normalizer");
    const std::string type = fields.text_or("type", "");
    if (type == "NFC") {
      spec.normalize_nfc = true;
    } else if (type == "Prepend") {
      const std::string prefix = fields.text_or("prepend", "");
      if (prefix != kEscape)
        fields.fail("Prepend of " + in_quotes(prefix) + "; supported: '\\xe2\\x96\\x81' (U+2581)");
      if (escapes_spaces) fields.fail("Prepend after Replace; supported: before it");
      spec.space_prefix = SpacePrefix::kAlways;
    } else if (type == "Replace") {
      if (!has_string_pattern(*step, " ") || fields.text_or("content", "") != kEscape) {
        fields.fail("Replace of something else than ' ' by U+2581; that is the one supported");
      }
      escapes_spaces = true;
    } else {
      fields.fail("type is " + in_quotes(type) +
                  "; supported: none, NFC, Prepend, Replace, and a Sequence of these");
    }
    if (!fields.status().ok()) return fields.status();
  }
  if (spec.space_prefix == SpacePrefix::kAlways && !escapes_spaces) {
    return invalid_argument(source + ": normalizer: Prepend without Replace is not supported");
  }
  return {};
}

// The steps that turn pieces back into text. All of them do what Tokenizer::decode does anyway, but for the
// first space, which only some take away.
Status read_piece_decoder(const std::vector<const json*>& steps, const std::string& source,
                          TokenizerSpec& spec) {
  if (steps.empty()) return invalid_argument(source + ": field 'decoder' is missing");
  bool spaces = false;
  for (const json* step : steps) {
    JsonFields fields(*step, source + ": decoder");
    const std::string type = fields.text_or("type", "");
    if (type == "Metaspace") {
      spaces = true;
      const std::string scheme =
          fields.text_or("prepend_scheme", fields.flag_or("add_prefix_space", true) ? "always" : "never");
      spec.strip_first_space = scheme != "never";
    } else if (type == "Replace") {
      spaces = has_string_pattern(*step, kEscape) && fields.text_or("content", "") == " ";
      if (!spaces) fields.fail("Replace of something else than U+2581 by ' '; that is the one supported");
    } else if (type == "Strip") {
      const bool first_space = fields.text_or("content", "") == " " &&
                               fields.integer_or("start", 0, 0, INT32_MAX) == 1 &&
                               fields.integer_or("stop", 0, 0, INT32_MAX) == 0;
      if (!first_space)
        fields.fail("Strip of something else than one ' ' at the start; that is the one supported");
      spec.strip_first_space = true;
    } else if (type != "ByteFallback" && type != "Fuse") {
      fields.fail("type is " + in_quotes(type) +
                  "; supported: Metaspace, Replace, ByteFallback, Fuse, Strip");
    }
    if (!fields.status().ok()) return fields.status();
  }
  if (spaces) return {};
  return invalid_argument(source + ": decoder " + in_quotes(step_types(steps)) +
                          " does not turn U+2581 into spaces");
}

Status read_decoder(const json& tokenizer, const std::string& source, TokenizerSpec& spec) {
  const std::vector<const json*> steps = read_steps(tokenizer, "decoder", "decoders");
  if (spec.model != "gpt2") return read_piece_decoder(steps, source, spec);
  if (steps.empty() || step_types(steps) == "ByteLevel") return {};
  return invalid_argument(source + ": decoder " + in_quotes(step_types(steps)) +
                          " after byte-level text; supported: ByteLevel");
}

}  // namespace

Status read_text_steps(const json& tokenizer, const std::string& source, TokenizerSpec& spec) {
  bool escapes_spaces = false;
  KVCRUSH_RETURN_IF_ERROR(read_normalizer(tokenizer, source, escapes_spaces, spec));
  KVCRUSH_RETURN_IF_ERROR(recognise_pre_tokenizer(tokenizer, escapes_spaces, source, spec));
  return read_decoder(tokenizer, source, spec);
}

}  // namespace kvcrush
