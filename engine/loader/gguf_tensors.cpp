#include "engine/loader/gguf_tensors.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/core/readable.h"
#include "engine/loader/weight_type.h"

namespace kvcrush {
namespace {

constexpr std::uint32_t kMaxDimensions = 4;

struct TensorType {
  std::string_view name;
  std::optional<WeightDtype> dtype;  // nullopt: known, not supported
};

// Numbers of ggml's tensor types. Those that the engine cannot read are here to be named in errors.
const std::map<std::uint32_t, TensorType>& tensor_types() {
  static const std::map<std::uint32_t, TensorType> types = {
      {0, {"F32", WeightDtype::kF32}},
      {1, {"F16", WeightDtype::kF16}},
      {2, {"Q4_0", WeightDtype::kQ4_0}},
      {3, {"Q4_1", WeightDtype::kQ4_1}},
      {6, {"Q5_0", WeightDtype::kQ5_0}},
      {7, {"Q5_1", WeightDtype::kQ5_1}},
      {8, {"Q8_0", WeightDtype::kQ8_0}},
      {9, {"Q8_1", {}}},
      {10, {"Q2_K", WeightDtype::kQ2_K}},
      {11, {"Q3_K", WeightDtype::kQ3_K}},
      {12, {"Q4_K", WeightDtype::kQ4_K}},
      {13, {"Q5_K", WeightDtype::kQ5_K}},
      {14, {"Q6_K", WeightDtype::kQ6_K}},
      {15, {"Q8_K", {}}},
      {16, {"IQ2_XXS", {}}},
      {17, {"IQ2_XS", {}}},
      {18, {"IQ3_XXS", {}}},
      {19, {"IQ1_S", {}}},
      {20, {"IQ4_NL", WeightDtype::kIQ4_NL}},
      {21, {"IQ3_S", {}}},
      {22, {"IQ2_S", {}}},
      {23, {"IQ4_XS", WeightDtype::kIQ4_XS}},
      {24, {"I8", {}}},
      {25, {"I16", {}}},
      {26, {"I32", {}}},
      {27, {"I64", {}}},
      {28, {"F64", {}}},
      {29, {"IQ1_M", {}}},
      {30, {"BF16", WeightDtype::kBF16}},
      {34, {"TQ1_0", {}}},
      {35, {"TQ2_0", {}}},
      {39, {"MXFP4", {}}},
  };
  return types;
}

class TensorReader {
 public:
  TensorReader(ByteCursor& cursor, std::span<const std::byte> bytes, GgufFile& file)
      : bytes_(bytes), cursor_(cursor), file_(file) {}

  bool read_tensor_infos(std::uint64_t num_tensors) {
    std::set<std::string_view> names;
    for (std::uint64_t i = 0; i < num_tensors; ++i) {
      GgufTensor tensor;
      std::uint64_t offset = 0;
      if (!read_tensor_info(tensor, offset)) return false;
      if (!names.insert(tensor.name).second) {
        return cursor_.fail("tensor " + in_quotes(tensor.name) + " occurs twice");
      }
      file_.tensors.push_back(std::move(tensor));
      offsets_.push_back(offset);
    }
    return true;
  }

  // Tensor data begins at the next multiple of the alignment; offsets count from there.
  bool place_tensors() {
    const std::uint64_t start = (cursor_.offset() + file_.alignment - 1) / file_.alignment * file_.alignment;
    const std::uint64_t data_bytes = start < bytes_.size() ? bytes_.size() - start : 0;
    std::vector<std::pair<std::uint64_t, std::size_t>> order;  // offset, index
    for (std::size_t i = 0; i < file_.tensors.size(); ++i) {
      if (!file_.tensors[i].unsupported_type.empty()) continue;
      WeightView& view = file_.tensors[i].view;
      const std::string name = "tensor " + in_quotes(file_.tensors[i].name);
      const auto num_bytes = checked_num_bytes(view.dtype, view.shape);
      if (!num_bytes) {
        return cursor_.fail(name + " of type " + std::string(weight_dtype_name(view.dtype)) +
                            " has the impossible shape " + shape_text(view.shape));
      }
      if (offsets_[i] % file_.alignment != 0) {
        return cursor_.fail(name + " is at offset " + std::to_string(offsets_[i]) +
                            ", not a multiple of the alignment " + std::to_string(file_.alignment));
      }
      const auto size = static_cast<std::uint64_t>(*num_bytes);
      if (offsets_[i] > data_bytes || size > data_bytes - offsets_[i]) {
        return cursor_.fail(name + " needs " + std::to_string(size) + " bytes at data offset " +
                            std::to_string(offsets_[i]) + ", the file has " + std::to_string(data_bytes) +
                            " bytes of tensor data");
      }
      view.bytes =
          bytes_.subspan(static_cast<std::size_t>(start + offsets_[i]), static_cast<std::size_t>(size));
      order.emplace_back(offsets_[i], i);
    }
    return check_overlap(std::move(order));
  }

 private:
  bool read_tensor_info(GgufTensor& tensor, std::uint64_t& offset) {
    std::uint32_t num_dims = 0;
    std::uint32_t type = 0;
    if (!cursor_.read_string(tensor.name, "tensor name") || !cursor_.read(num_dims, "number of dimensions")) {
      return false;
    }
    if (tensor.name.empty() || num_dims < 1 || num_dims > kMaxDimensions) {
      return cursor_.fail("tensor " + in_quotes(tensor.name) + " has " + std::to_string(num_dims) +
                          " dimensions; a name and 1 to 4 dimensions are expected");
    }
    tensor.view.shape.resize(num_dims);
    // Innermost first in the file.
    for (auto dimension = tensor.view.shape.rbegin(); dimension != tensor.view.shape.rend(); ++dimension) {
      if (!cursor_.read(*dimension, "tensor dimension")) return false;
    }
    if (!cursor_.read(type, "tensor type") || !cursor_.read(offset, "tensor offset")) return false;
    const auto known = tensor_types().find(type);
    if (known == tensor_types().end()) {
      tensor.unsupported_type = "number " + std::to_string(type);
    } else if (known->second.dtype) {
      tensor.view.dtype = *known->second.dtype;
    } else {
      tensor.unsupported_type = known->second.name;
    }
    return check_dimensions(tensor);
  }

  // Those of supported types are checked with their bytes.
  bool check_dimensions(const GgufTensor& tensor) {
    if (tensor.unsupported_type.empty() || checked_num_elements(tensor.view.shape)) return true;
    return cursor_.fail("tensor " + in_quotes(tensor.name) + " has the impossible shape " +
                        shape_text(tensor.view.shape));
  }

  bool check_overlap(std::vector<std::pair<std::uint64_t, std::size_t>> order) {
    std::sort(order.begin(), order.end());
    for (std::size_t i = 1; i < order.size(); ++i) {
      const GgufTensor& previous = file_.tensors[order[i - 1].second];
      if (order[i - 1].first + previous.view.bytes.size() > order[i].first) {
        return cursor_.fail("tensors " + in_quotes(previous.name) + " and " +
                            in_quotes(file_.tensors[order[i].second].name) + " overlap at data offset " +
                            std::to_string(order[i].first));
      }
    }
    return true;
  }

  std::span<const std::byte> bytes_;
  ByteCursor& cursor_;
  GgufFile& file_;
  std::vector<std::uint64_t> offsets_;  // [tensors], bytes from the start of the tensor data
};

}  // namespace

bool read_gguf_tensors(ByteCursor& cursor, std::span<const std::byte> bytes, std::uint64_t num_tensors,
                       GgufFile& file) {
  TensorReader reader(cursor, bytes, file);
  return reader.read_tensor_infos(num_tensors) && reader.place_tensors();
}

}  // namespace kvcrush
