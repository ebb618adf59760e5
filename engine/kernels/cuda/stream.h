// A CUDA stream without CUDA's headers.
#pragma once

struct CUstream_st;

namespace kvcrush::cuda {

using Stream = CUstream_st*;  // cudaStream_t; null: the default stream

}  // namespace kvcrush::cuda
