// Plain identifiers shared by every module.
#pragma once

#include <cstdint>

namespace kvcrush {

using TokenId = std::int32_t;      // index into the vocabulary
using BlockId = std::int32_t;      // index into the block pool
using SequenceId = std::uint64_t;  // unique over the life of an engine

// What the MLP applies to its gate. GELU is the tanh formula.
enum class Activation { kSilu, kGeluTanh };

}  // namespace kvcrush
