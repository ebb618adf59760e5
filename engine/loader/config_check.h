// Sanity of a ModelConfig, whatever it was read from: ranges and the relations between its numbers.
#pragma once

#include <cstdint>
#include <string>

#include "engine/core/status.h"
#include "engine/model/model_config.h"

namespace kvcrush {

// Upper bounds, generous for any model of the family; they keep every product of two sizes far from overflow.
inline constexpr std::int64_t kMaxLayers = 1024;
inline constexpr std::int64_t kMaxHiddenSize = 1 << 17;
inline constexpr std::int64_t kMaxIntermediateSize = 1 << 20;
inline constexpr std::int64_t kMaxHeads = 1024;
inline constexpr std::int64_t kMaxHeadDim = 1024;
inline constexpr std::int64_t kMaxVocabSize = 1 << 22;
inline constexpr std::int64_t kMaxContextTokens = 1 << 26;
inline constexpr double kMaxRopeBase = 1e12;
inline constexpr double kMaxRopeFactor = 1e6;

// INVALID_ARGUMENT naming `source`, the field, its value and what is allowed.
Status check_config(const ModelConfig& config, const std::string& source);

}  // namespace kvcrush
