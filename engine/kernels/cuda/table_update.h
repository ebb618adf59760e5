// Single entries of block tables that live in device memory.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/stream.h"

namespace kvcrush::cuda {

struct TableUpdate {
  std::int32_t* entry;
  std::int32_t block;
};

// updates: [count] in device memory; no entry twice.
void update_tables(const TableUpdate* updates, int count, Stream stream);

}  // namespace kvcrush::cuda
