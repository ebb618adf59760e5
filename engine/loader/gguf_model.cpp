#include "engine/loader/gguf_model.h"

#include <utility>
#include <vector>

#include "engine/loader/architecture.h"
#include "engine/loader/gguf.h"
#include "engine/loader/gguf_config.h"
#include "engine/loader/gguf_tokenizer.h"
#include "engine/loader/weight_map.h"

namespace kvcrush {

Result<ModelFile> read_gguf_model(std::span<const std::byte> bytes, const std::string& source) {
  Result<GgufFile> file = parse_gguf(
      bytes, source, [](std::string_view name) { return architecture_of_gguf(name) != nullptr; },
      known_gguf_architectures());
  if (!file.ok()) return file.status();
  const auto name = std::get<std::string_view>(file->metadata.at("general.architecture"));
  const Architecture& architecture = *architecture_of_gguf(name);
  std::vector<NamedWeight> weights;
  weights.reserve(file->tensors.size());
  for (const GgufTensor& tensor : file->tensors) weights.push_back({std::string(tensor.name), tensor.view});

  Result<ModelConfig> config = read_gguf_config(*file, architecture, weights, source);
  if (!config.ok()) return config.status();
  ModelFile model;
  model.config = std::move(*config);
  Result<TokenizerSpec> tokenizer = read_gguf_tokenizer(*file, model.config.vocab_size, source);
  if (!tokenizer.ok()) return tokenizer.status();
  model.tokenizer = std::move(*tokenizer);
  KVCRUSH_RETURN_IF_ERROR(map_weights(weights, NameScheme::kGguf, architecture, source, model));
  return model;
}

}  // namespace kvcrush
