#include "engine/loader/gguf_model.h"

#include <map>
#include <utility>
#include <vector>

#include "engine/core/readable.h"
#include "engine/loader/architecture.h"
#include "engine/loader/config_sketch.h"
#include "engine/loader/gguf.h"
#include "engine/loader/gguf_config.h"
#include "engine/loader/gguf_metadata.h"
#include "engine/loader/gguf_tokenizer.h"
#include "engine/loader/weight_map.h"
#include "engine/loader/weight_type.h"

namespace kvcrush {
namespace {

Result<const Architecture*> find_architecture(const GgufFile& file, const std::string& source) {
  MetadataReader metadata(file, source);
  const std::string name = metadata.text("general.architecture");
  KVCRUSH_RETURN_IF_ERROR(metadata.status());
  if (const Architecture* architecture = architecture_of_gguf(name)) return architecture;
  return invalid_argument(source + ": architecture is " + in_quotes(name) +
                          "; supported: " + known_gguf_architectures());
}

// The tensors that the engine can read. Each type that it cannot read is a problem.
std::vector<NamedWeight> take_supported(const GgufFile& file, ModelReading& reading) {
  std::vector<NamedWeight> weights;
  weights.reserve(file.tensors.size());
  std::map<std::string, const GgufTensor*> first_of;
  for (const GgufTensor& tensor : file.tensors) {
    if (tensor.unsupported_type.empty()) {
      weights.push_back({std::string(tensor.name), tensor.view});
      add_tensor(weight_dtype_name(tensor.view.dtype), tensor.view, reading);
      continue;
    }
    first_of.emplace(tensor.unsupported_type, &tensor);
    add_tensor(tensor.unsupported_type, tensor.view, reading);
    total_of(tensor.unsupported_type, reading).supported = false;
  }
  for (const auto& [type, tensor] : first_of) {
    const int others = total_of(type, reading).num_tensors - 1;
    reading.check(invalid_argument(tensor->view.stored.file + ": tensor " + in_quotes(tensor->name) +
                                   " has type " + type +
                                   "; supported: " + std::string(supported_weight_dtypes()) +
                                   (others == 0 ? "" : " (" + std::to_string(others) + " more have it)")));
  }
  return weights;
}

}  // namespace

ModelReading read_gguf_parts(std::span<const GgufPart> parts) {
  ModelReading reading;
  reading.format = parts.size() == 1 ? "GGUF" : "GGUF in " + std::to_string(parts.size()) + " parts";
  const std::string& source = parts.front().source;
  Result<GgufFile> file = parse_gguf_parts(parts);
  if (!reading.check(file.status())) return reading;

  ModelFile& model = reading.model;
  model.config = sketch_gguf_config(*file, source);
  const Result<const Architecture*> architecture = find_architecture(*file, source);
  const bool has_architecture = reading.check(architecture.status());
  const std::vector<NamedWeight> weights = take_supported(*file, reading);
  if (!has_architecture) return reading;
  Result<ModelConfig> config = read_gguf_config(*file, **architecture, weights, source);
  if (!reading.check(config.status())) return reading;
  model.config = std::move(*config);
  reading.has_config = true;
  Result<TokenizerSpec> tokenizer = read_gguf_tokenizer(*file, model.config.vocab_size, source);
  if (reading.check(tokenizer.status())) model.tokenizer = std::move(*tokenizer);
  if (weights.size() != file->tensors.size()) return reading;  // what is of no use would be called missing
  reading.check(map_weights(weights, NameScheme::kGguf, **architecture, source, model));
  return reading;
}

Result<ModelFile> read_gguf_model(std::span<const std::byte> bytes, const std::string& source) {
  const GgufPart whole{bytes, source};
  return complete(read_gguf_parts({&whole, 1}));
}

}  // namespace kvcrush
