// The tensor table of a GGUF file: a part of parse_gguf.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/loader/byte_cursor.h"
#include "engine/loader/gguf.h"

namespace kvcrush {

inline constexpr std::size_t kMinTensorInfoBytes = 8 + 4 + 8 + 4 + 8;  // empty name, one dimension

// Reads `num_tensors` infos at the cursor and points each view at its bytes inside `bytes`, the whole file.
// False after any violation; the cursor then holds the error.
bool read_gguf_tensors(ByteCursor& cursor, std::span<const std::byte> bytes, std::uint64_t num_tensors,
                       GgufFile& file);

}  // namespace kvcrush
