#include "engine/loader/hf_tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "engine/core/readable.h"
#include "engine/loader/hf_sentencepiece.h"
#include "engine/loader/json_fields.h"
#include "engine/loader/mapped_file.h"
#include "engine/loader/sentencepiece_model.h"
#include "engine/loader/stop_tokens.h"
#include "engine/loader/tokenizer_json.h"

namespace kvcrush {
namespace {

using nlohmann::json;

// A file that may be absent: an empty object then.
Result<json> read_optional_json(const std::filesystem::path& path) {
  Result<json> object = read_json_file(path.string());
  if (!object.ok() && object.status().code() == StatusCode::kNotFound) return json::object();
  return object;
}

Result<TokenId> find_token(const std::string& text, const char* field, const std::string& source,
                           const TokenizerSpec& spec) {
  if (text.empty()) return TokenId{-1};
  const auto found = std::find(spec.tokens.begin(), spec.tokens.end(), text);
  if (found == spec.tokens.end()) {
    return invalid_argument(source + ": field '" + field + "' is " + in_quotes(text) +
                            ", which the vocabulary does not have");
  }
  return static_cast<TokenId>(found - spec.tokens.begin());
}

// An id or a list of ids under `key`; nothing when absent.
Result<std::vector<TokenId>> read_ids(const json& object, const char* key, const std::string& source,
                                      const TokenizerSpec& spec) {
  std::vector<TokenId> ids;
  const auto value = object.find(key);
  if (value == object.end() || value->is_null()) return ids;
  const std::size_t num_values = value->is_array() ? value->size() : 1;
  for (std::size_t i = 0; i < num_values; ++i) {
    const json& id = value->is_array() ? (*value)[i] : *value;
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= spec.tokens.size()) {
      return invalid_argument(source + ": field '" + key + "' must hold ids from 0 to " +
                              std::to_string(spec.tokens.size() - 1));
    }
    ids.push_back(id.get<TokenId>());
  }
  return ids;
}

// The template is a string, or a list of named ones of which "default" counts.
Status read_chat_template(const JsonFields& fields, const std::string& source, TokenizerSpec& spec) {
  const json* value = fields.find("chat_template");
  if (value == nullptr) return {};
  if (value->is_string()) {
    spec.chat_template = value->get<std::string>();
    return {};
  }
  if (value->is_array()) {
    for (const json& entry : *value) {
      if (!entry.is_object() || !entry.contains("name") || entry["name"] != "default") continue;
      spec.chat_template = token_text(entry.contains("template") ? &entry["template"] : nullptr);
      return {};
    }
  }
  return invalid_argument(source +
                          ": field 'chat_template' must be a string or a list with a 'default' entry");
}

Status read_tokenizer_config(const json& settings, const std::string& source, TokenizerSpec& spec) {
  JsonFields fields(settings, source);
  const std::pair<const char*, TokenId*> named[] = {{"bos_token", &spec.bos_id},
                                                    {"eos_token", &spec.eos_id},
                                                    {"unk_token", &spec.unknown_id},
                                                    {"pad_token", &spec.padding_id}};
  for (const auto& [field, id] : named) {
    Result<TokenId> found = find_token(token_text(fields.find(field)), field, source, spec);
    if (!found.ok()) return found.status();
    if (*found < 0) continue;
    const bool added = (id == &spec.bos_id && spec.add_bos) || (id == &spec.eos_id && spec.add_eos);
    if (added && *id >= 0 && *id != *found) {
      fields.fail("field '" + std::string(field) + "' is " +
                  in_quotes(spec.tokens[static_cast<std::size_t>(*found)]) + ", but " +
                  in_quotes(spec.tokens[static_cast<std::size_t>(*id)]) + " is what is added to texts");
    }
    *id = *found;
  }
  spec.add_bos = fields.flag_or("add_bos_token", spec.add_bos);
  spec.add_eos = fields.flag_or("add_eos_token", spec.add_eos);
  if (!fields.status().ok()) return fields.status();
  return read_chat_template(fields, source, spec);
}

Status read_template_file(const std::filesystem::path& path, TokenizerSpec& spec) {
  Result<MappedFile> file = MappedFile::open(path.string());
  if (file.ok()) {
    spec.chat_template.assign(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
    return {};
  }
  return file.status().code() == StatusCode::kNotFound ? Status() : file.status();
}

// The vocabulary of tokenizer.json or, where there is none, of tokenizer.model.
Result<TokenizerSpec> read_hf_vocabulary(const std::filesystem::path& folder, const json& settings,
                                         const std::string& settings_path, int vocab_size) {
  const std::string json_path = (folder / "tokenizer.json").string();
  Result<json> tokenizer = read_json_file(json_path);
  if (tokenizer.ok()) return parse_tokenizer_json(*tokenizer, vocab_size, json_path);
  if (tokenizer.status().code() != StatusCode::kNotFound) return tokenizer.status();
  const std::string model_path = (folder / "tokenizer.model").string();
  Result<MappedFile> file = MappedFile::open(model_path);
  if (!file.ok() && file.status().code() == StatusCode::kNotFound) {
    return invalid_argument(folder.string() + ": neither tokenizer.json nor tokenizer.model is there");
  }
  if (!file.ok()) return file.status();
  Result<TokenizerSpec> spec = parse_sentencepiece_model(file->bytes(), vocab_size, model_path);
  if (!spec.ok()) return spec;
  Result<json> added = read_optional_json(folder / "added_tokens.json");
  if (!added.ok()) return added.status();
  KVCRUSH_RETURN_IF_ERROR(add_hf_settings(
      {settings, settings_path, *added, (folder / "added_tokens.json").string()}, vocab_size, *spec));
  return spec;
}

}  // namespace

Result<TokenizerSpec> read_hf_tokenizer(const std::string& directory, const json& model_json,
                                        const ModelConfig& config) {
  const std::filesystem::path folder(directory);
  const std::filesystem::path settings_path = folder / "tokenizer_config.json";
  Result<json> settings = read_optional_json(settings_path);
  if (!settings.ok()) return settings.status();
  Result<TokenizerSpec> parsed =
      read_hf_vocabulary(folder, *settings, settings_path.string(), config.vocab_size);
  if (!parsed.ok()) return parsed.status();
  TokenizerSpec& spec = *parsed;
  KVCRUSH_RETURN_IF_ERROR(read_tokenizer_config(*settings, settings_path.string(), spec));
  KVCRUSH_RETURN_IF_ERROR(read_template_file(folder / "chat_template.jinja", spec));

  const std::filesystem::path generation_path = folder / "generation_config.json";
  Result<json> generation = read_optional_json(generation_path);
  if (!generation.ok()) return generation.status();
  std::vector<TokenId> stop_ids;
  const std::string config_path = (folder / "config.json").string();
  const std::pair<const json*, std::string> sources[] = {{&model_json, config_path},
                                                         {&*generation, generation_path.string()}};
  for (const auto& [object, source] : sources) {
    Result<std::vector<TokenId>> ids = read_ids(*object, "eos_token_id", source, spec);
    if (!ids.ok()) return ids.status();
    stop_ids.insert(stop_ids.end(), ids->begin(), ids->end());
  }
  if (spec.eos_id < 0 && !stop_ids.empty()) spec.eos_id = stop_ids.front();
  if (spec.bos_id < 0) {
    Result<std::vector<TokenId>> ids = read_ids(model_json, "bos_token_id", config_path, spec);
    if (!ids.ok()) return ids.status();
    if (!ids->empty()) spec.bos_id = ids->front();
  }
  if (spec.add_bos && spec.bos_id < 0) {
    return invalid_argument(settings_path.string() +
                            ": a beginning-of-text token is to be added but none is named");
  }
  if (spec.add_eos && spec.eos_id < 0) {
    return invalid_argument(settings_path.string() +
                            ": an end-of-text token is to be added but none is named");
  }
  KVCRUSH_RETURN_IF_ERROR(set_stop_ids(stop_ids, directory, spec));
  return parsed;
}

}  // namespace kvcrush
