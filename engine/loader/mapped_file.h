// A file mapped read-only into memory. Holding the handle keeps the bytes valid; destruction unmaps them.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "engine/core/status.h"

namespace kvcrush {

class MappedFile {
 public:
  // Errors: NOT_FOUND (no such path), INVALID_ARGUMENT (not a regular file, or the system refuses; with its
  // reason).
  static Result<MappedFile> open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  // Empty for an empty file. The file must not shrink while it is mapped: the system would answer reads with
  // SIGBUS.
  std::span<const std::byte> bytes() const { return {data_, size_bytes_}; }
  // Has the system fetch all of it before it is read. Only a hint, so a refusal is no error.
  void read_ahead() const;
  // Takes what was read so far out of this process' memory. It is read again when it is wanted.
  void release_pages() const;

 private:
  MappedFile(const std::byte* data, std::size_t size_bytes) : data_(data), size_bytes_(size_bytes) {}
  void unmap() noexcept;

  const std::byte* data_ = nullptr;
  std::size_t size_bytes_ = 0;
};

}  // namespace kvcrush
