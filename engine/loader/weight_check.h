// Whether all weights are finite: a model with one that is not answers every request with nonsense, or fails
// it, and better does not start.
#pragma once

#include "engine/core/status.h"
#include "engine/loader/model_file.h"

namespace kvcrush {

// Reads every weight in floating point and the factors of every quantised block once, on `num_threads` >= 1
// threads. INVALID_ARGUMENT naming file, tensor and element, counted as the file stores it: NaN or infinite.
Status check_finite(const ModelFile& model, int num_threads);

}  // namespace kvcrush
