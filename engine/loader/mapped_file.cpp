#include "engine/loader/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "engine/core/readable.h"

namespace kvcrush {
namespace {

class Descriptor {
 public:
  // Not blocking: a named pipe would keep the caller waiting for a writer.
  explicit Descriptor(const std::string& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// Empty where `path` is no link.
std::string link_target(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::read_symlink(path, ignored).string();
}

std::string system_reason(int error) {
  return std::generic_category().message(error);
}

}  // namespace

Result<MappedFile> MappedFile::open(const std::string& path) {
  const Descriptor descriptor(path);
  if (descriptor.get() < 0) {
    const int error = errno;
    if (const std::string target = link_target(path); error == ENOENT && !target.empty())
      return invalid_argument(path + ": is a link to " + readable(target) + ", which is not there");
    if (error == ENOENT || error == ENOTDIR) return not_found(path + ": no such file");
    return invalid_argument(path + ": cannot be opened: " + system_reason(error));
  }
  struct stat info = {};
  if (::fstat(descriptor.get(), &info) != 0) {
    return invalid_argument(path + ": cannot be examined: " + system_reason(errno));
  }
  if (S_ISDIR(info.st_mode)) return invalid_argument(path + ": is a folder; a file is expected");
  if (!S_ISREG(info.st_mode)) return invalid_argument(path + ": is not a regular file");
  const auto size_bytes = static_cast<std::size_t>(info.st_size);
  if (size_bytes == 0) return MappedFile(nullptr, 0);
  void* address = ::mmap(nullptr, size_bytes, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
  if (address == MAP_FAILED) {
    return invalid_argument(path + ": cannot be mapped: " + system_reason(errno));
  }
  return MappedFile(static_cast<const std::byte*>(address), size_bytes);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap();
    data_ = std::exchange(other.data_, nullptr);
    size_bytes_ = std::exchange(other.size_bytes_, 0);
  }
  return *this;
}

void MappedFile::read_ahead() const {
  if (data_ != nullptr)
    static_cast<void>(::madvise(const_cast<std::byte*>(data_), size_bytes_, MADV_WILLNEED));
}

void MappedFile::release_pages() const {
  if (data_ != nullptr)
    static_cast<void>(::madvise(const_cast<std::byte*>(data_), size_bytes_, MADV_DONTNEED));
}

MappedFile::~MappedFile() {
  unmap();
}

void MappedFile::unmap() noexcept {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_bytes_);
}

}  // namespace kvcrush
