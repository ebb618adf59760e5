// From the tensor names of a source format to canonical ones, with every shape checked against the
// configuration.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/status.h"
#include "engine/loader/architecture.h"
#include "engine/loader/model_file.h"

namespace kvcrush {

struct NamedWeight {
  std::string name;  // as the file spells it
  WeightView view;
};

enum class NameScheme {
  kGguf,         // "blk.0.attn_q.weight"
  kHuggingFace,  // "model.layers.0.self_attn.q_proj.weight"
};

// Whether the source has tensors of this name; used by callers that look before they map.
bool has_weight(const std::vector<NamedWeight>& weights, std::string_view name);

// Fills `model.weights` and the sums beside it from `model.config` and the traits of its architecture.
// Errors: INVALID_ARGUMENT naming the tensor: missing, of another shape (found and expected), or one that a
// model of this configuration does not have.
Status map_weights(const std::vector<NamedWeight>& weights, NameScheme scheme,
                   const Architecture& architecture, const std::string& source, ModelFile& model);

}  // namespace kvcrush
