// A CUDA stream without CUDA's headers.
#pragma once

struct CUstream_st;

namespace kvcrush::cuda {

using Stream = CUstream_st*;  // cudaStream_t; null: the default stream

// Of one block on every card from sm_80 on that serves (A100 163 KiB, consumer cards 99 KiB).
inline constexpr int kMaxSharedBytes = 99 << 10;

}  // namespace kvcrush::cuda
