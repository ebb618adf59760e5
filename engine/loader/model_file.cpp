#include "engine/loader/model_file.h"

#include <filesystem>
#include <memory>
#include <utility>

#include "engine/loader/gguf_model.h"
#include "engine/loader/hf_model.h"
#include "engine/loader/mapped_file.h"

namespace kvcrush {

Result<ModelFile> load_model_file(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return read_hf_model(path);
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok()) return file.status();
  if (path.ends_with(".safetensors")) {
    return invalid_argument(path + ": name the directory that holds this file and its config.json");
  }
  auto mapping = std::make_shared<const MappedFile>(std::move(*file));
  Result<ModelFile> model = read_gguf_model(mapping->bytes(), path);
  if (!model.ok()) return model;
  model->release_pages = [file = mapping.get()] { file->release_pages(); };
  model->mapping = std::move(mapping);
  return model;
}

}  // namespace kvcrush
