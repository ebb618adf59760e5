#include "server/small_file.h"

#include <spdlog/fmt/fmt.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

namespace kvcrush {

Status refused_file(const NamedFile& file, const std::string& why) {
  return invalid_argument(fmt::format("{} is \"{}\": {}", file.option, file.path, why));
}

Result<std::string> read_small_file(const NamedFile& file) {
  constexpr std::size_t kMostBytes = 1 << 20;
  errno = 0;
  std::ifstream in(file.path, std::ios::binary);
  std::string text;
  if (in) {
    text.resize(kMostBytes + 1);
    in.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(in.gcount()));
  }
  // A folder opens, and fails when it is read.
  if (!in.is_open() || in.bad()) {
    const std::string reason = errno != 0 ? std::strerror(errno) : "no regular file";
    return refused_file(file, "cannot be read (" + reason + ")");
  }
  if (text.size() > kMostBytes) return refused_file(file, "is larger than 1 MiB");
  return text;
}

}  // namespace kvcrush
