// A Hugging Face model folder. An input is a chain of files, each behind a line "#FILE name": its names are
// those that the loader looks for, or a shard's.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "engine/loader/model_file.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/model_invariants.h"

namespace kvcrush::fuzz {
namespace {

constexpr std::string_view kMarker = "#FILE ";
constexpr std::array<std::string_view, 11> kNames = {"config.json",
                                                     "tokenizer.json",
                                                     "tokenizer.model",
                                                     "added_tokens.json",
                                                     "tokenizer_config.json",
                                                     "generation_config.json",
                                                     "chat_template.jinja",
                                                     "model.safetensors",
                                                     "model.safetensors.index.json",
                                                     "model-00001-of-00002.safetensors",
                                                     "model-00002-of-00002.safetensors"};

// In memory where there is such a file system.
std::filesystem::path make_folder() {
  const std::filesystem::path shared = "/dev/shm";
  const std::filesystem::path base =
      std::filesystem::is_directory(shared) ? shared : std::filesystem::temp_directory_path();
  const std::filesystem::path folder = base / ("kvcrush_fuzz_" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  return folder;
}

struct Folder {
  std::filesystem::path path = make_folder();
  Folder() = default;
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

void write_files(const std::filesystem::path& folder, FuzzInput& input) {
  static_cast<void>(input.until(kMarker));
  while (!input.empty()) {
    const std::string_view name = input.until("\n");
    const std::string_view content = input.until(kMarker);
    if (std::find(kNames.begin(), kNames.end(), name) == kNames.end()) continue;
    std::ofstream(folder / name, std::ios::binary) << content;
  }
}

}  // namespace
}  // namespace kvcrush::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvcrush;
  static const fuzz::Folder folder;
  fuzz::FuzzInput input(data, size);
  fuzz::write_files(folder.path, input);
  {
    const Result<ModelFile> model = load_model_file(folder.path.string());
    if (model.ok()) {
      fuzz::check_model(*model, {});
    } else {
      fuzz::check_refusal(model.status());
    }
  }
  for (const std::string_view name : fuzz::kNames) ::unlink((folder.path / name).c_str());
  return 0;
}
