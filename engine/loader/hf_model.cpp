#include "engine/loader/hf_model.h"

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
  KVCRUSH_RETURN_IF_ERROR(
      map_weights(weights->weights, NameScheme::kHuggingFace, config->attention_bias, directory, model));
  const auto files = std::make_shared<const std::vector<MappedFile>>(std::move(weights->files));
  model.release_pages = [all = files.get()] {
    for (const MappedFile& file : *all) file.release_pages();
  };
  model.mapping = files;
  return model;
}

}  // namespace kvcrush
