#include "engine/loader/weight_check.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

#include "engine/core/readable.h"
#include "engine/loader/weight_type.h"

namespace kvcrush {
namespace {

// Where a block has its float16 factors, in bytes from its start. The integers beside them make no value
// infinite: 6 bits times 8 bits times the largest float16 is far from float32's end.
std::vector<std::size_t> factor_offsets(WeightDtype dtype) {
  switch (dtype) {
    case WeightDtype::kQ8_0:
    case WeightDtype::kQ4_0:
    case WeightDtype::kQ5_0:
    case WeightDtype::kIQ4_NL:
    case WeightDtype::kIQ4_XS:
      return {0};
    case WeightDtype::kQ4_1:
    case WeightDtype::kQ5_1:
    case WeightDtype::kQ4_K:
    case WeightDtype::kQ5_K:
      return {0, 2};
    case WeightDtype::kQ2_K:
      return {80, 82};
    case WeightDtype::kQ3_K:
      return {108};
    case WeightDtype::kQ6_K:
      return {208};
    case WeightDtype::kF32:
    case WeightDtype::kF16:
    case WeightDtype::kBF16:
      break;
  }
  return {};
}

// Floats of one kind at a fixed distance: not finite where all bits of the exponent are set.
template <typename Bits>
struct FloatRun {
  const std::byte* first = nullptr;
  std::size_t stride_bytes = sizeof(Bits);
  Bits exponent = 0;

  Bits at(std::size_t i) const {
    Bits bits;
    std::memcpy(&bits, first + i * stride_bytes, sizeof(Bits));
    return bits;
  }
  bool is_finite(std::size_t i) const { return (at(i) & exponent) != exponent; }
  bool is_nan(std::size_t i) const {
    constexpr Bits kAllButSign = std::numeric_limits<Bits>::max() >> 1;
    return (at(i) & kAllButSign & ~exponent) != 0;
  }

  // Index of the first that is not finite; `count`: none.
  std::size_t find(std::size_t count) const {
    constexpr std::size_t kStep = 1024;  // without a branch inside
    for (std::size_t begin = 0; begin < count; begin += kStep) {
      const std::size_t end = std::min(begin + kStep, count);
      unsigned any = 0;
      for (std::size_t i = begin; i < end; ++i) any |= static_cast<unsigned>(!is_finite(i));
      for (std::size_t i = begin; any != 0 && i < end; ++i)
        if (!is_finite(i)) return i;
    }
    return count;
  }
};

struct Finding {
  std::int64_t block = -1;  // of the tensor, an element where it is not quantised; -1: none
  bool is_nan = false;
};

template <typename Bits>
Finding find_in(const FloatRun<Bits>& run, std::int64_t count) {
  const auto size = static_cast<std::size_t>(count);
  const std::size_t at = run.find(size);
  return at == size ? Finding{} : Finding{static_cast<std::int64_t>(at), run.is_nan(at)};
}

// The first bad block of `count` from block `begin`.
Finding scan(const WeightView& view, std::int64_t begin, std::int64_t count) {
  const std::int64_t block_bytes = weight_block(view.dtype).num_bytes;
  const std::byte* from = view.bytes.data() + begin * block_bytes;
  Finding first;
  const auto keep_first = [&](Finding found) {
    if (found.block >= 0 && (first.block < 0 || found.block < first.block)) first = found;
  };
  const auto stride = static_cast<std::size_t>(block_bytes);
  constexpr std::uint16_t kHalfExponent = 0x7c00;
  if (view.dtype == WeightDtype::kF32) {
    keep_first(find_in(FloatRun<std::uint32_t>{from, stride, 0x7f800000}, count));
  } else if (view.dtype == WeightDtype::kF16 || view.dtype == WeightDtype::kBF16) {
    const std::uint16_t exponent = view.dtype == WeightDtype::kF16 ? kHalfExponent : std::uint16_t{0x7f80};
    keep_first(find_in(FloatRun<std::uint16_t>{from, stride, exponent}, count));
  } else {
    for (const std::size_t offset : factor_offsets(view.dtype))
      keep_first(find_in(FloatRun<std::uint16_t>{from + offset, stride, kHalfExponent}, count));
  }
  if (first.block >= 0) first.block += begin;
  return first;
}

struct Piece {
  const WeightView* view;
  std::int64_t begin;  // blocks
  std::int64_t count;
};

std::vector<Piece> cut(const ModelFile& model) {
  constexpr std::int64_t kPieceBytes = 4 << 20;
  std::vector<Piece> pieces;
  for (const auto& [name, view] : model.weights) {
    const WeightBlock block = weight_block(view.dtype);
    const std::int64_t num_blocks = view.num_elements() / block.num_elements;
    const std::int64_t step = std::max<std::int64_t>(kPieceBytes / block.num_bytes, 1);
    for (std::int64_t begin = 0; begin < num_blocks; begin += step)
      pieces.push_back({&view, begin, std::min(step, num_blocks - begin)});
  }
  return pieces;
}

Status refusal(const WeightView& view, const Finding& found) {
  const std::int64_t block_elements = weight_block(view.dtype).num_elements;
  const std::int64_t element = found.block * block_elements;
  const std::int64_t width = view.shape.back();
  const std::string row =
      view.shape.size() > 1 ? std::to_string(view.stored.first_row + element / width) + ", " : std::string();
  const std::string at = "[" + row + std::to_string(element % width) + "]";
  return invalid_argument(
      view.stored.file + ": tensor " + in_quotes(view.stored.name) + " of type " +
      std::string(weight_dtype_name(view.dtype)) + " is " + (found.is_nan ? "NaN" : "infinite") +
      (block_elements == 1 ? " at " : " in the block at ") + at + "; finite weights are expected");
}

}  // namespace

Status check_finite(const ModelFile& model, int num_threads) {
  KVCRUSH_CHECK(num_threads >= 1);
  const std::vector<Piece> pieces = cut(model);
  std::atomic<std::size_t> next{0};
  // Whatever the threads' order, the first bad piece is the one that is told.
  std::atomic<std::size_t> first_bad{pieces.size()};
  const auto work = [&] {
    for (std::size_t i = next++; i < pieces.size() && i < first_bad; i = next++) {
      if (scan(*pieces[i].view, pieces[i].begin, pieces[i].count).block < 0) continue;
      std::size_t known = first_bad;
      while (i < known && !first_bad.compare_exchange_weak(known, i)) {
      }
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (int t = 1; t < num_threads; ++t) helpers.emplace_back(work);
    work();
  }
  if (first_bad == pieces.size()) return {};
  const Piece& piece = pieces[first_bad];
  return refusal(*piece.view, scan(*piece.view, piece.begin, piece.count));
}

}  // namespace kvcrush
