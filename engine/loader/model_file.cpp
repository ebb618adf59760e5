#include "engine/loader/model_file.h"

#include "engine/loader/model_reading.h"

namespace kvcrush {

Result<ModelFile> load_model_file(const std::string& path) {
  Result<ModelFile> model = complete(read_model(path));
  if (model.ok() && model->read_ahead) model->read_ahead();
  return model;
}

}  // namespace kvcrush
