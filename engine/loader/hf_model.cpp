#include "engine/loader/hf_model.h"

#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

#include "engine/loader/config_sketch.h"
#include "engine/loader/hf_config.h"
#include "engine/loader/hf_tokenizer.h"
#include "engine/loader/json_fields.h"
#include "engine/loader/model_path.h"
#include "engine/loader/safetensors.h"
#include "engine/loader/weight_map.h"
#include "engine/loader/weight_type.h"

namespace kvcrush {
namespace {

// The last component, also of a path that ends in a slash; of a cache's models--org--name/snapshots/COMMIT
// "org/name".
std::string model_name(const std::string& directory) {
  std::filesystem::path path = std::filesystem::path(directory).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  const std::filesystem::path snapshots = path.parent_path();
  const std::string repository = snapshots.parent_path().filename().string();
  if (snapshots.filename() != "snapshots" || !repository.starts_with(kCachePrefix))
    return path.filename().string();
  std::string name = repository.substr(kCachePrefix.size());
  if (const std::size_t separator = name.find("--"); separator != std::string::npos)
    name.replace(separator, 2, "/");
  return name;
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

ModelReading read_hf_model(const std::string& directory) {
  ModelReading reading;
  reading.format = "Hugging Face";
  ModelFile& model = reading.model;
  const std::string config_path = (std::filesystem::path(directory) / "config.json").string();
  Result<nlohmann::json> json = read_json_file(config_path);
  if (!json.ok()) json = invalid_argument(json.status().message());
  const Architecture* architecture = nullptr;
  bool text_part = false;
  if (reading.check(json.status())) {
    model.config = sketch_hf_config(*json);
    Result<HfConfig> config = read_hf_config(*json, config_path);
    reading.has_config = reading.check(config.status());
    if (reading.has_config) {
      model.config = std::move(config->model);
      architecture = config->architecture;
      text_part = config->text_part;
      Result<TokenizerSpec> tokenizer = read_hf_tokenizer(directory, *json, model.config);
      if (reading.check(tokenizer.status())) model.tokenizer = std::move(*tokenizer);
    }
  }
  model.config.name = model_name(directory);
  Result<SafetensorsModel> weights = open_safetensors(directory);
  if (!reading.check(weights.status())) return reading;
  if (text_part) keep_text_model(weights->weights);
  for (const NamedWeight& weight : weights->weights)
    add_tensor(weight_dtype_name(weight.view.dtype), weight.view, reading);
  if (reading.has_config)
    reading.check(map_weights(weights->weights, NameScheme::kHuggingFace, *architecture, directory, model));
  keep_mapped(std::make_shared<const std::vector<MappedFile>>(std::move(weights->files)), model);
  return reading;
}

}  // namespace kvcrush
