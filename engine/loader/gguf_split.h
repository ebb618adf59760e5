// A GGUF model in several files, as llama.cpp splits them: NAME-00001-of-00003.gguf and so on. The first
// carries the model's metadata; every one has tensors of its own and says which part it is:
//
//   split.no              0 in the first
//   split.count           number of files
//   split.tensors.count   tensors in all files together
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/status.h"
#include "engine/loader/gguf.h"

namespace kvcrush {

struct SplitName {
  std::string stem;  // NAME, with its folders
  int number = 0;    // from 1
  int count = 0;

  std::string of(int other_number) const;  // the name of another part
};
// nullopt: not the name of a part.
std::optional<SplitName> parse_split_name(std::string_view path);

// All files of the model whose only or first file is `path`. INVALID_ARGUMENT where that is another part.
Result<std::vector<std::string>> gguf_part_paths(const std::string& path);

struct GgufPart {
  std::span<const std::byte> bytes;
  std::string source;  // names the file in errors
};

// The first part's metadata with the tensors of all. `parts` are in order, all of them; their bytes must
// outlive the result. Errors: INVALID_ARGUMENT naming the file: broken, of another model or split, or with a
// tensor that another has too.
Result<GgufFile> parse_gguf_parts(std::span<const GgufPart> parts);

}  // namespace kvcrush
