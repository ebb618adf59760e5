#include "engine/loader/model_reading.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "engine/loader/gguf_model.h"
#include "engine/loader/gguf_split.h"
#include "engine/loader/hf_model.h"
#include "engine/loader/mapped_file.h"
#include "engine/loader/model_path.h"

namespace kvcrush {
namespace {

Result<std::vector<MappedFile>> open_parts(const std::vector<std::string>& paths) {
  std::vector<MappedFile> files;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    Result<MappedFile> file = MappedFile::open(paths[i]);
    if (file.ok()) {
      files.push_back(std::move(*file));
    } else if (i == 0) {
      return file.status();
    } else {
      return invalid_argument(file.status().message() + "; it is part " + std::to_string(i + 1) + " of " +
                              std::to_string(paths.size()) + " of the model that " + paths[0] + " begins");
    }
  }
  return files;
}

ModelReading read_gguf(const std::string& path) {
  ModelReading failed;
  const Result<std::vector<std::string>> paths = gguf_part_paths(path);
  if (!failed.check(paths.status())) return failed;
  Result<std::vector<MappedFile>> opened = open_parts(*paths);
  if (!failed.check(opened.status())) return failed;
  const auto files = std::make_shared<const std::vector<MappedFile>>(std::move(*opened));
  std::vector<GgufPart> parts;
  for (std::size_t i = 0; i < files->size(); ++i) parts.push_back({(*files)[i].bytes(), (*paths)[i]});
  ModelReading reading = read_gguf_parts(parts);
  keep_mapped(files, reading.model);
  return reading;
}

}  // namespace

bool ModelReading::check(Status status) {
  if (status.ok()) return true;
  problems.push_back(std::move(status));
  return false;
}

void keep_mapped(std::shared_ptr<const std::vector<MappedFile>> files, ModelFile& model) {
  model.read_ahead = [all = files.get()] {
    for (const MappedFile& file : *all) file.read_ahead();
  };
  model.release_pages = [all = files.get()] {
    for (const MappedFile& file : *all) file.release_pages();
  };
  model.mapping = std::move(files);
}

TensorTypeTotal& total_of(std::string_view type, ModelReading& reading) {
  const auto place =
      std::lower_bound(reading.types.begin(), reading.types.end(), type,
                       [](const TensorTypeTotal& total, std::string_view name) { return total.type < name; });
  if (place != reading.types.end() && place->type == type) return *place;
  TensorTypeTotal total;
  total.type = type;
  return *reading.types.insert(place, std::move(total));
}

void add_tensor(std::string_view type, const WeightView& tensor, ModelReading& reading) {
  TensorTypeTotal& total = total_of(type, reading);
  ++total.num_tensors;
  total.num_elements += static_cast<std::uint64_t>(tensor.num_elements());
  total.num_bytes += tensor.bytes.size();
}

ModelReading read_model(const std::string& path) {
  ModelReading reading;
  const Result<ModelPath> found = resolve_model_path(path);
  if (!reading.check(found.status())) return reading;
  reading = found->is_folder ? read_hf_model(found->path) : read_gguf(found->path);
  reading.model.path = found->path;
  return reading;
}

Result<ModelFile> complete(ModelReading reading) {
  if (!reading.problems.empty()) return reading.problems.front();
  return std::move(reading.model);
}

}  // namespace kvcrush
