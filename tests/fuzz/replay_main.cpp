// Feeds the files of the folders on the command line to a target, as a test of any build: what fuzzing found
// stays fixed. usage: NAME_replay FOLDER...
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz_target.h"

namespace {

constexpr double kMaxSeconds = 20;  // of one input, in a slow build

std::vector<std::filesystem::path> files_of(int argc, char** argv) {
  std::vector<std::filesystem::path> files;
  for (int i = 1; i < argc; ++i) {
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

double replay(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  const auto start = std::chrono::steady_clock::now();
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::filesystem::path> files = files_of(argc, argv);
  if (files.empty()) {
    std::fprintf(stderr, "usage: %s FOLDER...   (folders with inputs)\n", argv[0]);
    return 2;
  }
  for (const std::filesystem::path& path : files) {
    std::printf("%s\n", path.c_str());  // before it runs: a crash names its input
    std::fflush(stdout);
    const double seconds = replay(path);
    if (seconds <= kMaxSeconds) continue;
    std::fprintf(stderr, "%s takes %.1f s, allowed: %.0f\n", path.c_str(), seconds, kMaxSeconds);
    return 1;
  }
  std::printf("%zu inputs\n", files.size());
  return 0;
}
