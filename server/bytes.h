// Sizes in bytes as people write them, and how much memory this machine or container has left.
#pragma once

#include <cstdint>
#include <string>

#include "engine/core/status.h"

namespace kvcrush {

// "1048576", "512MiB", "2 GB"; units KiB, MiB, GiB, TiB (powers of 1024) and KB, MB, GB, TB (powers of 1000).
// INVALID_ARGUMENT naming `option`, the value and what is allowed.
Result<std::uint64_t> parse_bytes(const std::string& option, const std::string& text);

// "1.5 GiB": for people, not for parsing.
std::string format_bytes(std::uint64_t bytes);

// The lesser of the kernel's MemAvailable and what the cgroup's limit leaves; 0 when neither is known.
std::uint64_t available_memory_bytes();

// Resident set of this process in bytes; 0 when unknown.
std::uint64_t resident_memory_bytes();

}  // namespace kvcrush
