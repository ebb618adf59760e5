// A model as far as it can be read, for those who want to know all that is wrong with it at once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/status.h"
#include "engine/loader/mapped_file.h"
#include "engine/loader/model_file.h"

namespace kvcrush {

// All tensors of one storage type.
struct TensorTypeTotal {
  std::string type;  // as the format spells it, e.g. "Q4_1"
  bool supported = true;
  int num_tensors = 0;
  std::uint64_t num_elements = 0;
  std::uint64_t num_bytes = 0;  // 0 where the type is not supported
};

struct ModelReading {
  ModelFile model;                     // what could not be read is empty or 0
  std::vector<Status> problems;        // what keeps it from being served, most telling first; none: complete
  bool has_config = false;             // false: model.config is what could be gathered, for people
  std::string format;                  // "GGUF", "GGUF in 3 parts", "Hugging Face"
  std::vector<TensorTypeTotal> types;  // in the order of their names

  // Notes a failure; true where there is none.
  bool check(Status status);
};

// Never fails: a path that leads to no model is a problem like any other. Maps files, and reads no weights.
ModelReading read_model(const std::string& path);

// The model, or its first problem.
Result<ModelFile> complete(ModelReading reading);

// What readers of a format share: the model keeps its files mapped, and its tensors are counted by type.
void keep_mapped(std::shared_ptr<const std::vector<MappedFile>> files, ModelFile& model);
void add_tensor(std::string_view type, const WeightView& tensor, ModelReading& reading);
TensorTypeTotal& total_of(std::string_view type, ModelReading& reading);

}  // namespace kvcrush
