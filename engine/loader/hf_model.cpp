#include "engine/loader/hf_model.h"

#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

#include "engine/loader/hf_config.h"
#include "engine/loader/hf_tokenizer.h"
#include "engine/loader/json_fields.h"
#include "engine/loader/safetensors.h"
#include "engine/loader/weight_map.h"

namespace kvcrush {
namespace {

// The last component, also of a path that ends in a slash.
std::string folder_name(const std::string& directory) {
  std::filesystem::path path = std::filesystem::path(directory).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

// Of a model that sees pictures, too: its text model's tensors, by the names that they have alone. Both
// orders of the prefix are in use.
void keep_text_model(std::vector<NamedWeight>& weights) {
  std::vector<NamedWeight> kept;
  for (NamedWeight& weight : weights) {
    for (const auto& [prefix, replacement] :
         {std::pair("language_model.model.", "model."), std::pair("model.language_model.", "model."),
          std::pair("language_model.lm_head.", "lm_head."), std::pair("lm_head.", "lm_head.")}) {
      if (!weight.name.starts_with(prefix)) continue;
      kept.push_back({replacement + weight.name.substr(std::strlen(prefix)), weight.view});
      break;
    }
  }
  weights = std::move(kept);
}

}  // namespace

Result<ModelFile> read_hf_model(const std::string& directory) {
  const std::string config_path = (std::filesystem::path(directory) / "config.json").string();
  Result<nlohmann::json> json = read_json_file(config_path);
  if (!json.ok()) return invalid_argument(json.status().message());
  Result<HfConfig> config = read_hf_config(*json, config_path);
  if (!config.ok()) return config.status();
  ModelFile model;
  model.config = std::move(config->model);
  model.config.name = folder_name(directory);
  Result<TokenizerSpec> tokenizer = read_hf_tokenizer(directory, *json, model.config);
  if (!tokenizer.ok()) return tokenizer.status();
  model.tokenizer = std::move(*tokenizer);
  Result<SafetensorsModel> weights = open_safetensors(directory);
  if (!weights.ok()) return weights.status();
  if (config->text_part) keep_text_model(weights->weights);
  KVCRUSH_RETURN_IF_ERROR(
      map_weights(weights->weights, NameScheme::kHuggingFace, *config->architecture, directory, model));
  const auto files = std::make_shared<const std::vector<MappedFile>>(std::move(weights->files));
  model.release_pages = [all = files.get()] {
    for (const MappedFile& file : *all) file.release_pages();
  };
  model.mapping = files;
  return model;
}

}  // namespace kvcrush
