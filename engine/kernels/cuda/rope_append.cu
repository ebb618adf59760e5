// From the QKV projection to the cache. A block takes 16 tokens, as many as a tile of K is wide, and some of
// the heads; a head of a token is a piece each for head_dim / 8 lanes of one warp. K is transposed through
// shared memory: neighbouring lanes then store neighbouring tokens of a channel, which share a memory sector.
#include "engine/kernels/cuda/elementwise.cuh"
#include "engine/kernels/cuda/launch.h"

namespace kvcrush::cuda {

namespace {

using cpu::kTileTokens;

constexpr int kBlockTokens = kTileTokens;
constexpr int kMaxThreads = kBlockTokens * kWarpLanes;
constexpr int kEnoughBlocks = 1024;  // to fill a large GPU; more only read the RoPE table more often

__host__ __device__ constexpr int tokens_per_warp(int head_dim) {
  return kWarpLanes * kPiece / head_dim;
}
// Floats of a token's K in shared memory: 16 tokens lie in 16 banks of one parity, their next channels in
// the others.
__host__ __device__ constexpr int key_stride(int head_dim) {
  return head_dim + 2;
}

// Where a token goes in the cache, in head 0 of its block.
struct Place {
  std::byte* block;  // null: nowhere
  KvDtype dtype;
  std::int32_t key;    // element of its first channel; the next ones are kTileTokens further
  std::int32_t value;  // element of its first channel; the next ones follow
};

__device__ __forceinline__ Place place_of(const RopeAppendCall& call, int token) {
  if (call.sequence_of_token[token] < 0) return {};
  const cpu::AttentionSequence& sequence = call.sequences[call.sequence_of_token[token]];
  const int slot = sequence.cache.num_cached - sequence.num_queries + (token - sequence.query_start);
  const cpu::KvTile tile = cpu::tile_of_slot(sequence.cache, slot);
  const int column = slot - tile.first_slot;
  const int dim = call.pool.head_dim;
  return {cpu::head_base(call.pool, tile.block, 0), tile.dtype, tile.offset * dim + column,
          (tile.tokens_per_block + tile.offset + column) * dim};
}

// Calls function(element 0 of the head) in the place's dtype, a float one.
template <class Function>
__device__ __forceinline__ void with_head(const Place& place, std::int64_t head_offset,
                                          const Function& function) {
  std::byte* head = place.block + head_offset;
  if (place.dtype == KvDtype::kF32) {
    function(reinterpret_cast<float*>(head));
  } else if (place.dtype == KvDtype::kBF16) {
    function(reinterpret_cast<BF16*>(head));
  } else {
    function(reinterpret_cast<F16*>(head));
  }
}

// A thread's part of the block's work: one piece of one token, of every head that the block takes.
struct PieceOf {
  int lane;
  int row;      // token within the block
  int token;    // in the batch
  int channel;  // first of the piece
  bool valid;   // else a lane or a token too many, or a token of nobody

  __device__ explicit PieceOf(const RopeAppendCall& call) {
    const int pieces = call.pool.head_dim / kPiece;
    const int per_warp = tokens_per_warp(call.pool.head_dim);
    lane = static_cast<int>(threadIdx.x) % kWarpLanes;
    row = static_cast<int>(threadIdx.x) / kWarpLanes * per_warp + lane / pieces;
    token = static_cast<int>(blockIdx.x) * kBlockTokens + row;
    channel = lane % pieces * kPiece;
    valid = lane / pieces < per_warp && row < kBlockTokens && token < call.num_tokens &&
            call.sequence_of_token[token] >= 0;
  }
};

// x times its head's 1 / sqrt(mean(x^2) + eps) times the weights. Heads need not be a power of two of lanes
// wide: the Hadamard matrix's parts are, and are few.
__device__ __forceinline__ void norm_head(const RopeAppendCall& call, const float* weights, int part,
                                          const PieceOf& piece, float (&x)[kPiece]) {
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kPiece; ++i) squares += x[i] * x[i];
  for (int offset = 1; offset < part / kPiece; offset *= 2)
    squares += __shfl_xor_sync(kAllLanes, squares, offset);
  const int first = piece.lane - piece.channel / kPiece;
  float sum = 0;
  for (int channel = 0; channel < call.pool.head_dim; channel += part)
    sum += __shfl_sync(kAllLanes, squares, first + channel / kPiece);
  const float scale = rsqrtf(sum / static_cast<float>(call.pool.head_dim) + call.norm_eps);
  float weight[kPiece];
  load_floats(weights + piece.channel, weight);
#pragma unroll
  for (int i = 0; i < kPiece; ++i) x[i] = weight[i] * (x[i] * scale);
}

// The token's cosines and sines at a piece's channels. A sine's sign is the one of the partner, half a head
// away.
struct Rotation {
  float cosines[kPiece];
  float sines[kPiece];
  int partner;  // lane

  __device__ Rotation(const RopeAppendCall& call, const PieceOf& piece) {
    const int half = call.pool.head_dim / 2;
    const bool low = piece.channel < half;
    partner = piece.lane + (low ? half : -half) / kPiece;
    if (!piece.valid) {
#pragma unroll
      for (int i = 0; i < kPiece; ++i) cosines[i] = sines[i] = 0;
      return;
    }
    const float* row = call.cos_sin +
                       static_cast<std::int64_t>(call.positions[piece.token]) * call.pool.head_dim +
                       (low ? piece.channel : piece.channel - half);
    load_floats(row, cosines);
    load_floats(row + half, sines);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) sines[i] = low ? -sines[i] : sines[i];
  }
  __device__ __forceinline__ void apply(float (&x)[kPiece]) const {
#pragma unroll
    for (int i = 0; i < kPiece; ++i)
      // Rounded as on the CPU: a fused multiply-add would differ in a key's last bit.
      x[i] =
          __fadd_rn(__fmul_rn(x[i], cosines[i]), __fmul_rn(__shfl_sync(kAllLanes, x[i], partner), sines[i]));
  }
};

// Stores a K head of the block's tokens, which all threads left in `keys`; lanes run along the tokens.
__device__ __forceinline__ void store_keys(const RopeAppendCall& call, const Place* places,
                                           std::int64_t head_offset, const float* keys) {
  const auto thread = static_cast<int>(threadIdx.x);
  const int row = thread % kBlockTokens;
  if (static_cast<int>(blockIdx.x) * kBlockTokens + row >= call.num_tokens) return;
  const int dim = call.pool.head_dim;
  const Place place = places[row];
  if (place.block == nullptr) return;
  with_head(place, head_offset, [&](auto* head) {
    for (int d = thread / kBlockTokens; d < dim; d += static_cast<int>(blockDim.x) / kBlockTokens)
      from_float(keys[row * key_stride(dim) + d], head[place.key + d * kTileTokens]);
  });
}

// Whether the block comes to a head of K or V; it takes every gridDim.y-th.
__device__ __forceinline__ bool takes_kv(int num_query_heads, int num_heads) {
  const auto first = static_cast<int>(blockIdx.y);
  const auto step = static_cast<int>(gridDim.y);
  return first + (num_heads - 1 - first) / step * step >= num_query_heads;
}

// Grid: tiles of tokens, heads in turn. Shared memory: K of the block's tokens.
template <class Activation>
__global__ void __launch_bounds__(kMaxThreads)
    rope_append_kernel(RopeAppendCall call, HadamardShape shape, std::int64_t head_bytes) {
  wait_for_earlier_kernels();
  __shared__ Place places[kBlockTokens];
  const int first_value = call.num_heads + call.pool.num_kv_heads;
  const int num_heads = first_value + call.pool.num_kv_heads;
  if (takes_kv(call.num_heads, num_heads)) {
    // By the last warp, which has no token of its own in a small batch: looking up takes as long as all the
    // rest.
    const int row = static_cast<int>(threadIdx.x) - static_cast<int>(blockDim.x) + kWarpLanes;
    const int token = static_cast<int>(blockIdx.x) * kBlockTokens + row;
    if (row >= 0 && row < kBlockTokens && token < call.num_tokens) places[row] = place_of(call, token);
  }
  auto* keys = reinterpret_cast<float*>(dynamic_shared());  // [kBlockTokens, key_stride]
  const PieceOf piece(call);
  const Rotation rotation(call, piece);
  const int dim = call.pool.head_dim;
  Activation* row =
      static_cast<Activation*>(call.qkv) + static_cast<std::int64_t>(piece.token) * num_heads * dim;
  for (int head = static_cast<int>(blockIdx.y); head < num_heads; head += static_cast<int>(gridDim.y)) {
    const int column = head * dim + piece.channel;
    float x[kPiece] = {};
    if (piece.valid) load_floats(row + column, x);
    if (call.bias != nullptr) {
      float bias[kPiece];
      load_floats(call.bias + column, bias);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) x[i] += bias[i];
    }
    if (head < first_value) {
      const float* norm = head < call.num_heads ? call.q_norm : call.k_norm;
      if (norm != nullptr) norm_head(call, norm, shape.size, piece, x);
      rotation.apply(x);
    }
    turn_pieces(shape, piece.lane, x);
    if (head < call.num_heads) {
      if (piece.valid) store_floats(x, row + column);
      continue;
    }
    if (head < first_value && piece.valid) {
#pragma unroll
      for (int i = 0; i < kPiece; i += 2)
        *reinterpret_cast<float2*>(keys + piece.row * key_stride(dim) + piece.channel + i) =
            make_float2(x[i], x[i + 1]);
    }
    __syncthreads();
    if (head < first_value) {
      store_keys(call, places, (head - call.num_heads) * head_bytes, keys);
      __syncthreads();  // the next head's K may come
    } else if (piece.valid) {
      const Place place = places[piece.row];
      with_head(place, (head - first_value) * head_bytes,
                [&](auto* elements) { store_floats(x, elements + place.value + piece.channel); });
    }
  }
}

}  // namespace

void rope_append(const RopeAppendCall& call, Stream stream) {
  if (call.num_tokens == 0) return;
  const int dim = call.pool.head_dim;
  const HadamardShape shape = hadamard_shape(dim);
  const int tiles = cpu::ceil_div(call.num_tokens, kBlockTokens);
  const int heads = call.num_heads + 2 * call.pool.num_kv_heads;
  const int head_blocks = cpu::ceil_div(kEnoughBlocks, tiles);
  const int warps = cpu::ceil_div(kBlockTokens, tokens_per_warp(dim));
  const LaunchShape launch_shape{
      dim3{static_cast<unsigned>(tiles), static_cast<unsigned>(head_blocks < heads ? head_blocks : heads)},
      dim3{static_cast<unsigned>(warps * kWarpLanes)},
      sizeof(float) * static_cast<std::size_t>(kBlockTokens * key_stride(dim))};
  with_type(call.activations, [&](auto type) {
    launch_early<rope_append_kernel<decltype(type)>>(launch_shape, stream, call, shape,
                                                     call.pool.block_bytes / call.pool.num_kv_heads);
  });
}

}  // namespace kvcrush::cuda
