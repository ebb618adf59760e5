// What weights take in memory once they are loaded, told from the file alone.
#pragma once

#include <cstdint>

#include "engine/loader/model_file.h"

namespace kvcrush {

// On the CPU with weight_dtype "auto": quantised matrices packed in 4 or 8 bits, all else in float32. Rows of
// an embedding that is no output projection stay in the file, and take nothing.
std::uint64_t kept_weight_bytes(const ModelFile& model);

}  // namespace kvcrush
